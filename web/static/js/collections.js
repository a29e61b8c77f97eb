// The Collections tab: make one, fill it, search it, look at it, delete it.

import { call, may, patiently } from "./api.js";
import { $, complain, confirmed, during, el, facts, plural, toast, whole } from "./dom.js";
import { drawMap } from "./map.js";
import { refreshModels } from "./pick.js";
import { SAMPLES } from "./samples.js";
import { uploadCard } from "./upload.js";

const HITS = [5, 10, 20, 50];
const pathOf = (name) => `/collections/${encodeURIComponent(name)}`;
const uploads = new Map(); // collection: its upload, which goes on while others are looked at
let chosen = null;
let drawn = null; // the map that is shown

/** Make the tab work; called once. */
export function setUp() {
  const form = $("collection-new");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async () => {
      const name = $("new-name").value.trim();
      await call("POST", "/collections", { name, model: $("new-model").value });
      form.reset();
      chosen = name;
      await show();
    });
  });
}

/** Called whenever the tab is opened. */
export async function show() {
  await refreshModels($("new-model"));
  const collections = await listed();
  if (!collections.some((one) => one.name === chosen)) chosen = collections[0]?.name ?? null;
  for (const [name, { stop }] of uploads) {
    if (collections.some((one) => one.name === name)) continue;
    stop(); // or it would go on in another of this name
    uploads.delete(name);
  }
  drawList(collections);
  $("collection-new").hidden = !may("write");
  $("collection-new").querySelector("details").open = !collections.length;
  const info = collections.find((one) => one.name === chosen);
  if (info) await open(info);
  else $("collection-detail").replaceChildren(nothingYet());
}

/** Every collection; a long list comes in parts. */
async function listed() {
  const found = [];
  for (let rest = ""; ;) {
    const { collections, next_cursor: next } = (await call("GET", `/collections${rest}`)).data;
    found.push(...collections);
    if (next === null) return found;
    rest = `?cursor=${encodeURIComponent(next)}`;
  }
}

/** What a newcomer sees: a collection to look at is one press away. */
function nothingYet() {
  if (!may("write")) return el("div", { class: "empty" }, el("h2", {}, "No collection yet"), el("p", {}, "Somebody who may store texts has to make one first."));
  const form = el("form", { class: "empty" }, el("h2", {}, "No collection yet"),
    el("p", {}, "Name one and fill it with a file of yours, or look around with some texts of ours."),
    el("div", { class: "actions" }, el("button", { type: "submit" }, "Make one of sample texts")),
    el("p", { class: "error", role: "alert", hidden: true }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async (tell) => {
      const [texts, ids, metadata] = ["text", "id", "metadata"].map((key) => SAMPLES.map((one) => one[key]));
      await patiently([503], () => call("POST", "/embed-and-store", { collection: "samples", texts, ids, metadata }), tell);
      chosen = "samples";
      await show();
      toast("Search it by meaning: try “cooking”");
    });
  });
  return form;
}

function drawList(collections) {
  $("collection-list").replaceChildren(...collections.map((one) => el("button", {
    type: "button", class: "item", "aria-pressed": String(one.name === chosen), "data-name": one.name,
    onclick: () => { chosen = one.name; drawList(collections); open(one).catch((error) => toast(error.message)); },
  }, el("span", {}, one.name), el("span", { class: "count" }, whole(one.count)))));
}

/** The card that adds files to a collection; the same one whenever it is shown. */
function uploadOf(name) {
  if (!uploads.has(name)) uploads.set(name, uploadCard(name, () => refresh(name)));
  return uploads.get(name).card;
}

/** Show a collection. */
async function open(info) {
  const results = el("div", { class: "results" });
  drawn = null;
  const mapPlace = el("div", { class: "card map-card" });
  $("collection-detail").replaceChildren(
    el("div", { class: "heading" }, el("h2", { class: "name" }, info.name),
      may("write") ? el("button", { type: "button", class: "quiet small danger-text", onclick: () => remove(info) }, "Delete") : null),
    facts({ Texts: whole(info.count), Dimensions: whole(info.dimension), Metric: info.metric, Model: info.model ?? "any",
      ...(info.indexed.length ? { "Fields kept ready for filters": info.indexed.join(", ") } : {}) }),
    info.count ? searchForm(info, results) : el("p", { class: "empty" }, may("write") ? "It is empty. Add a file, and its texts can be searched." : "It is empty."),
    el("div", { class: "found" }, results, info.count ? mapPlace : null),
    ...(may("write") ? [uploadOf(info.name)] : []));
  if (info.count) await loadMap(info, mapPlace);
}

async function refresh(name) {
  try {
    const collections = await listed();
    drawList(collections);
    const info = collections.find((one) => one.name === name);
    if (!info) return;
    toast(`${name} holds ${plural(info.count, "text")}`);
    if (chosen === name) await open(info);
  } catch (error) {
    toast(error.message);
  }
}

async function loadMap(info, place) {
  let map;
  try {
    map = (await patiently([503], () => call("GET", `${pathOf(info.name)}/map`), () => {})).data;
  } catch (error) {
    place.replaceChildren(el("h2", {}, "Map"), el("p", { class: "error", role: "alert" }, error.message));
    return; // all else can be used
  }
  if (!place.isConnected) return; // another collection was opened meanwhile
  drawn = drawMap(map);
  const share = Math.round(100 * (map.explained[0] + map.explained[1]));
  const part = map.points.length < map.count ? `${whole(map.points.length)} of ${plural(map.count, "text")}, drawn at random` : plural(map.count, "text");
  place.replaceChildren(
    el("div", { class: "heading" }, el("h2", {}, "Map"), el("p", { class: "hint" }, `${part} · ${share} % of the variance`)),
    drawn.element);
}

/** Light the hits up on the map; those it does not show are placed on it first. */
async function lightUp(info, ids) {
  const map = drawn;
  if (!map) return; // it is still to come
  const missing = map.missing(ids);
  if (missing.length) map.add((await call("POST", `${pathOf(info.name)}/map`, { ids: missing })).data.points);
  map.light(ids);
}

function searchForm(info, results) {
  const input = el("input", { id: "search-text", type: "search", required: true, autocomplete: "off",
    placeholder: "What are you looking for?", "aria-label": "Search by meaning" });
  const most = el("select", { id: "search-most", "aria-label": "Most results" }, HITS.map((count) => el("option", { value: String(count) }, `${count} results`)));
  const said = el("p", { class: "hint", role: "status" });
  const form = el("form", { class: "search" }, input, most, el("button", { type: "submit" }, "Search"),
    el("p", { class: "error", role: "alert", hidden: true }), said);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async (tell) => {
      const query = { text: input.value, k: Number(most.value) };
      const { data, ms } = await patiently([503], () => call("POST", `${pathOf(info.name)}/search`, query), tell);
      const best = Math.max(data.results[0]?.score ?? 0, 0);
      said.textContent = `${plural(data.results.length, "result")} in ${ms.toFixed(0)} ms`;
      results.replaceChildren(el("ol", {}, data.results.map((one) => hit(one, best))));
      await lightUp(info, data.results.map((one) => one.id));
    });
  });
  input.addEventListener("input", () => {
    if (input.value) return;
    results.replaceChildren();
    said.textContent = "";
    drawn?.light([]);
    complain(form.querySelector(".error"), null);
  });
  return form;
}

/** One result. Its score is the deeper in colour the nearer it comes to the best one's. */
function hit(one, best) {
  const score = el("span", { class: "score" }, one.score.toFixed(3));
  score.style.setProperty("--share", best ? Math.max(0, one.score / best).toFixed(3) : "0");
  const metadata = Object.entries(one.metadata ?? {});
  return el("li", {}, score,
    el("div", {}, el("p", { class: "text" }, one.text ?? one.id),
      metadata.length ? el("dl", { class: "meta" }, metadata.map(([key, value]) =>
        el("div", {}, el("dt", {}, key), el("dd", {}, typeof value === "string" ? value : JSON.stringify(value))))) : null));
}

async function remove(info) {
  const sure = await confirmed(`Delete ${info.name}?`,
    `Its ${plural(info.count, "text")} and their vectors will be gone. This cannot be undone.`, "Delete");
  if (!sure) return;
  try {
    await call("DELETE", pathOf(info.name));
    toast(`${info.name} is deleted`);
    chosen = null;
    await show();
  } catch (error) {
    toast(error.message);
  }
}
