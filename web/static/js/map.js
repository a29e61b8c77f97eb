// The map of an opened collection: its records as points, near each other if they mean the same.

import { call, patiently } from "./api.js";
import { el, plural, whole } from "./dom.js";
import { chosenTable } from "./map-chosen.js";
import { arrange, colouring, GREY_AT, legendOf, NONE, paletteOf } from "./map-colours.js";
import { FEWEST, layOut } from "./map-layout.js";
import { listen } from "./map-pointer.js";
import { Scene } from "./map-scene.js";

const MOVING_MS = 700; // from the first picture to the layout
const AROUND = 12, TEXTS = 2000; // texts read at once about a point, and kept
const PLACED = 100; // hits that are placed, the best ones
const dark = matchMedia("(prefers-color-scheme: dark)"), still = matchMedia("(prefers-reduced-motion: reduce)");

/** The map of the opened collection; search hits are lit on it. */
export function mapPart(view) {
  return new CollectionMap(view).element;
}

class CollectionMap {
  constructor(view) {
    this.view = view;
    this.map = null; // as the server told it
    this.coloured = null;
    this.texts = new Map(); // id: text
    this.build();
    this.scene = new Scene(...this.field.querySelectorAll("canvas"));
    const on = { signal: view.signal };
    view.addEventListener("hits", () => this.attempt(() => this.light()), on);
    view.addEventListener("info", () => this.attempt(() => this.load()), on);
    view.addEventListener("query", ({ detail }) => {
      if (detail.includes("color")) this.attempt(() => this.colour());
      if (detail.includes("id")) this.ring();
    }, on);
    for (const media of [dark, still]) media.addEventListener("change", () => this.paint(), on);
    listen(this.field, this.scene, {
      point: (index, aloud) => this.point(index, aloud),
      open: (index) => view.change({ id: this.ids[index] }),
      lassoed: (found) => { this.lassoing(false); this.choose(found, "Within the lasso"); },
      lassoing: () => this.lassoButton.getAttribute("aria-pressed") === "true",
      leave: () => { this.point(-1); this.lassoing(false); this.choose(null); },
    });
    const seen = new ResizeObserver(([{ contentRect: { width, height } }]) => { if (width && height) this.scene.resize(width, height); });
    seen.observe(this.field);
    view.signal.addEventListener("abort", () => seen.disconnect());
    this.attempt(() => this.load());
  }

  build() {
    const button = (text, label, act) => el("button", { type: "button", class: "quiet small", "aria-label": label, title: label, onclick: act }, text);
    this.hint = el("p", { class: "hint", role: "status" });
    this.choice = el("select", { class: "small", id: "map-color", "aria-label": "Colour by", onchange: () => this.view.change({ color: this.choice.value }) });
    this.lassoButton = el("button", { type: "button", class: "quiet small", "aria-pressed": "false", onclick: () => this.lassoing() }, "Lasso");
    this.field = el("div", { class: "map-field", role: "application", tabindex: "0", "aria-label": "Map" },
      el("canvas", { "aria-hidden": "true" }), el("canvas", { "aria-hidden": "true" }));
    this.tip = el("p", { class: "tip", hidden: true });
    this.spoken = el("p", { class: "unseen", "aria-live": "polite" });
    this.progress = el("progress", { max: "1", "aria-label": "Laying the points out", hidden: true });
    this.error = el("p", { class: "error", role: "alert", hidden: true });
    this.legend = el("div", {});
    this.table = el("div", {});
    this.frame = el("div", { class: "map", "aria-busy": "true" }, this.field, this.tip, this.spoken,
      el("div", { class: "map-buttons" }, button("+", "Zoom in", () => this.scene.zoom(1.5)), button("−", "Zoom out", () => this.scene.zoom(1 / 1.5)),
        button("⤢", "Show all", () => this.scene.home())));
    this.element = el("div", { class: "card map-card" },
      el("div", { class: "heading" }, el("div", {}, el("h2", {}, "Map"), this.hint),
        el("div", { class: "actions" }, el("label", { class: "beside", for: "map-color" }, "Colour"), this.choice, this.lassoButton)),
      this.progress, this.error, this.frame, this.legend, this.table);
  }

  /** Do `work`, and show what goes wrong. A map that is out of date is read again, once. */
  async attempt(work, again = true) {
    try {
      await work();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 409 && again) await this.attempt(() => this.load(), false);
      else this.complain(error);
    }
  }

  /** Read the map, draw it, colour it, and lay it out, unless it is the one that is shown. */
  async load() {
    const { data } = await this.ask("GET", `${this.view.path}/map`);
    if (data.state === this.map?.state) return;
    this.laying?.abort();
    this.laying = new AbortController();
    this.map = data;
    this.ids = data.ids;
    this.error.hidden = true;
    this.choose(null);
    this.scene.lit = new Map();
    this.scene.labels = [];
    this.coloured = null;
    this.paint();
    this.scene.place(Float32Array.from(data.x), Float32Array.from(data.y), true);
    this.field.setAttribute("aria-label", `Map of ${plural(data.ids.length, "text")}; the arrow keys go from one to the next, Enter opens it, plus and minus zoom`);
    this.frame.setAttribute("aria-busy", "true");
    this.frame.dataset.points = data.ids.length;
    this.frame.dataset.layout = data.layout;
    this.tell();
    this.offer();
    this.ring();
    await Promise.all([this.light(), this.layOut()]);
    this.tell();
    this.frame.setAttribute("aria-busy", "false");
  }

  ask(method, path, body) {
    const { signal } = this.view;
    return patiently([503], () => call(method, path, body, { signal }), (error) => { this.hint.textContent = error.message; }, signal);
  }

  complain(error) {
    this.error.hidden = false;
    this.error.textContent = error.message;
    this.frame.setAttribute("aria-busy", "false");
  }

  /** Say what the map shows. */
  tell() {
    const { ids, count, layout, explained } = this.map;
    const part = ids.length < count ? `${whole(ids.length)} of ${plural(count, "text")}, drawn at random` : plural(count, "text");
    const share = Math.round(100 * (explained[0] + explained[1]));
    this.hint.textContent = `${part} · ${layout === "neighbours" ? "similar texts lie close together" : `two directions, ${share} % of the differences`}`;
  }

  /** Offer what there is to colour by. */
  offer() {
    const { fields } = this.map, { color = "" } = this.view.query;
    const more = color && color !== NONE && !fields.includes(color) ? [color] : []; // an address may name any
    this.choice.replaceChildren(...[["", "Groups"], [NONE, "Nothing"], ...[...fields, ...more].map((one) => [one, one])]
      .map(([value, text]) => el("option", { value }, text)));
    this.choice.value = color;
  }

  /** Colour the map, and lay it out. Groups are made of the neighbours, so they wait for these. */
  async layOut() {
    const { map, view } = this, done = map.layout === "neighbours" || map.ids.length < FEWEST;
    if (done || view.query.color) await this.colour();
    if (done) return;
    this.progress.hidden = false;
    const tell = (text, share) => {
      this.progress.value = share;
      this.hint.textContent = `${text}: ${Math.round(100 * share)} %`;
    };
    try {
      const found = () => (view.query.color ? null : this.colour());
      const signal = AbortSignal.any([view.signal, this.laying.signal]);
      const { x, y } = await layOut(view.path, map, { tell, found, signal });
      if (map !== this.map) return; // another one came meanwhile
      [map.x, map.y, map.layout] = [x, y, "neighbours"];
      await this.move(x, y);
      this.frame.dataset.layout = map.layout;
      if (this.coloured) this.paint();
      await this.light();
    } catch (error) {
      if (error.name === "AbortError" || error.status === 409) throw error;
      this.complain(error); // the first picture stays
    } finally {
      if (map === this.map) this.progress.hidden = true;
    }
  }

  /** Let the points glide to their places. */
  move(x, y) {
    const { scene } = this, from = [scene.x.slice(0, x.length), scene.y.slice(0, y.length)], began = performance.now();
    scene.labels = [];
    scene.lit = new Map();
    return new Promise((resolve) => {
      const step = () => {
        const share = still.matches || document.hidden ? 1 : Math.min(1, (performance.now() - began) / MOVING_MS);
        const ease = share * share * (3 - 2 * share), mixed = (a, b) => a.map((one, i) => one + (b[i] - one) * ease);
        scene.place(share < 1 ? mixed(from[0], x) : x, share < 1 ? mixed(from[1], y) : y, true);
        if (share === 1) resolve();
        else setTimeout(step, 16);
      };
      step();
    });
  }

  async colour() {
    const { map, view } = this, { color = "" } = view.query;
    if (!map) return;
    this.choice.value = color;
    const coloured = await colouring((path) => this.ask("GET", path), view.path, map, color);
    if (map !== this.map || color !== (view.query.color ?? "")) return;
    this.coloured = coloured;
    this.choose(null);
    this.paint();
  }

  /** Draw in the colours of the scheme. */
  paint() {
    const { scene, coloured, map } = this, look = getComputedStyle(this.field);
    const of = (name) => look.getPropertyValue(name).trim();
    [scene.background, scene.ink, scene.accent] = [of("--sunk"), of("--ink"), of("--accent")];
    scene.palette = paletteOf(dark.matches ? "dark" : "light");
    scene.colours = coloured?.of ?? [];
    scene.plain = GREY_AT;
    if (coloured) {
      arrange(coloured, map.x, map.y);
      scene.labels = coloured.labels;
      this.legend.replaceChildren(legendOf(coloured, scene.palette, (entry) => this.choose(entry?.points ?? null, entry?.name)));
    }
    this.frame.dataset.coloured = this.view.query.color ?? "";
    scene.draw();
  }

  /** Show some points alone, and their records below; null lets them go. */
  choose(points, title) {
    const { scene, view } = this, some = points?.length ? points : null;
    scene.chosen = some && new Uint8Array(scene.x.length);
    for (const point of some ?? []) scene.chosen[point] = 1;
    this.frame.dataset.chosen = some?.length ?? 0;
    this.table.replaceChildren(...(some ? [chosenTable(view, some.map((point) => this.ids[point]), title, (id) => view.change({ id }), () => this.leave())] : []));
    scene.draw();
  }

  leave() {
    for (const pressed of this.legend.querySelectorAll("[aria-pressed=true]")) pressed.click();
    this.choose(null);
    this.field.focus();
  }

  lassoing(on = this.lassoButton.getAttribute("aria-pressed") !== "true") {
    this.lassoButton.setAttribute("aria-pressed", String(on));
    this.field.classList.toggle("lassoing", on);
  }

  /** Light the search's hits; those that the map does not show are placed on it. */
  async light() {
    const { map, scene, view } = this, ids = view.hits.slice(0, PLACED);
    if (!map) return; // it is still to come
    let placed = [];
    if (ids.length) {
      placed = (await this.ask("POST", `${view.path}/map`, { state: map.state, ids })).data.points;
      if (map !== this.map || ids[0] !== view.hits[0]) return;
    }
    const x = [...map.x], y = [...map.y];
    this.ids = [...map.ids];
    scene.lit = new Map(placed.map(({ id, text, near, weights }) => {
      if (text !== null) this.texts.set(id, text);
      if (near.length === 1) return [near[0], text];
      for (const along of [x, y]) along.push(weights.reduce((sum, weight, i) => sum + weight * along[near[i]], 0));
      this.ids.push(id);
      return [this.ids.length - 1, text];
    }));
    scene.place(Float32Array.from(x), Float32Array.from(y));
    this.frame.dataset.lit = scene.lit.size;
  }

  /** Mark the point whose record is open. */
  ring() {
    this.scene.open = this.ids?.indexOf(this.view.query.id) ?? -1;
    this.scene.mark();
  }

  /** Show a point's text, aloud where it was reached by a key; -1 is none. */
  async point(index, aloud) {
    const { scene, tip } = this;
    if (index === scene.current && !aloud) return;
    scene.current = index;
    if (index >= 0 && aloud) scene.reveal(index);
    scene.mark();
    tip.hidden = index < 0;
    this.field.classList.toggle("over", index >= 0);
    if (index < 0) return;
    const id = this.ids[index];
    tip.textContent = this.texts.get(id) ?? "…";
    const [px, py] = scene.at(index);
    tip.style.setProperty("left", `${px}px`);
    tip.style.setProperty("top", `${py}px`);
    tip.classList.toggle("left", px > scene.width * 0.6);
    tip.classList.toggle("above", py > scene.height * 0.6);
    if (!this.texts.has(id)) await this.readAround(index);
    if (scene.current !== index) return;
    tip.textContent = this.texts.get(id) ?? id;
    if (aloud) this.spoken.textContent = tip.textContent;
  }

  /** Read the texts of a point and of those about it, which are pointed at next. */
  async readAround(index) {
    const { scene, view } = this, [px, py] = scene.at(index);
    await new Promise((resolve) => setTimeout(resolve, 40)); // a pointer on its way elsewhere asks for nothing
    if (scene.current !== index) return;
    const near = [];
    for (let i = 0; i < this.ids.length && near.length < 40 * AROUND; i++) {
      const [x, y] = scene.at(i);
      if (Math.abs(x - px) < 40 && Math.abs(y - py) < 40 && !this.texts.has(this.ids[i])) near.push([Math.hypot(x - px, y - py), this.ids[i]]);
    }
    const ids = [...new Set([this.ids[index], ...near.sort(([a], [b]) => a - b).slice(0, AROUND).map(([, id]) => id)])];
    try {
      const { data } = await call("POST", `${view.path}/vectors/get`, { ids, include: ["text"] }, { signal: view.signal });
      if (this.texts.size > TEXTS) this.texts.clear();
      for (const one of data.vectors) this.texts.set(one.id, one.text ?? one.id);
    } catch { /* the id is shown */ }
  }
}
