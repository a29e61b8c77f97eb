// Colours of a map's points: by group, or by a metadata field; and the legend that says what they mean.

import { el, whole } from "./dom.js";

/** Addresses say `color=.none`; a field's name never begins with a dot. */
export const NONE = ".none";
// Okabe and Ito's colours, which the colour-blind tell apart, with three more; as strong on dark ground.
const LIGHT = ["#0072b2", "#e08a00", "#009e73", "#c6619b", "#49a5df", "#cf4a00", "#7b52c7", "#8f8500", "#8c5a3c", "#3a3f9e"];
const DARK = ["#4ea4e0", "#f0a830", "#2fc79b", "#e38fbf", "#8fd0f7", "#f2783c", "#ab8df2", "#cdc04f", "#c49372", "#8c93ef"];
const GREY = { light: "#a3a5a8", dark: "#6d7371" };
// Viridis, which stays a scale for every eye; its end that would vanish on the ground is left out.
const SCALE = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725"];
const SHADES = 32; // as the server counts them

/** The colours of a scheme, "light" or "dark": those of categories, then grey, then those of a scale. */
export function paletteOf(scheme) {
  const stops = scheme === "dark" ? SCALE.slice(1) : SCALE.slice(0, 7);
  const shades = Array.from({ length: SHADES }, (_, i) => between(stops, i / (SHADES - 1)));
  return [...(scheme === "dark" ? DARK : LIGHT), GREY[scheme], ...shades];
}

/** The index of grey, for what has no colour of its own. */
export const GREY_AT = LIGHT.length;

function between(stops, share) {
  const at = Math.min(stops.length - 2, Math.floor(share * (stops.length - 1))), rest = share * (stops.length - 1) - at;
  const part = (from) => Math.round(parseInt(stops[at].slice(from, from + 2), 16) * (1 - rest) + parseInt(stops[at + 1].slice(from, from + 2), 16) * rest);
  return `#${[1, 3, 5].map((from) => part(from).toString(16).padStart(2, "0")).join("")}`;
}

/** How to colour a map, asked for by `ask(path)`: {of, entries, scale, labels}. `of` has a colour for each point; an entry is
    {name, colour, points}, whose points are chosen by it; labels are names of groups to write. */
export async function colouring(ask, path, map, color) {
  if (color === NONE) return { of: new Uint8Array(map.ids.length).fill(GREY_AT), entries: [], labels: [] };
  const query = new URLSearchParams({ state: map.state, ...(color ? { field: color } : {}) });
  const { data } = await ask(`${path}/map/${color ? "values" : "groups"}?${query}`);
  if (!color) return byGroup(data);
  return data.kind === "numbers" ? byNumber(data) : byCategory(data);
}

function byCategory({ names, others, of }) {
  const entries = names.map((name, at) => ({ name, colour: at, points: placesOf(of, at) }));
  if (others) entries.push({ name: "Others", colour: GREY_AT, points: placesOf(of, names.length) });
  const missing = placesOf(of, -1);
  if (missing.length) entries.push({ name: "None", colour: GREY_AT, points: missing });
  return { of: Uint8Array.from(of, (one) => (one < 0 || one >= names.length ? GREY_AT : one)), entries, labels: [] };
}

function byNumber({ of, low, high, logarithmic }) {
  const missing = placesOf(of, -1);
  return {
    of: Uint8Array.from(of, (one) => (one < 0 ? GREY_AT : GREY_AT + 1 + one)),
    entries: missing.length ? [{ name: "None", colour: GREY_AT, points: missing }] : [], scale: [low, high], logarithmic, labels: [],
  };
}

function byGroup({ names, of }) {
  const groups = names.map((name, at) => ({ name, points: placesOf(of, at) }));
  return { groups, of: Uint8Array.from(of), entries: groups, labels: [] };
}

/** Give groups colours, so that two of one colour are far apart, and names a place, once it is known
    where the points lie. */
export function arrange(colours, x, y) {
  if (!colours.groups) return;
  const used = LIGHT.map(() => []);
  colours.labels = [];
  for (const group of colours.groups) {
    const middle = [medianOf(group.points, x), medianOf(group.points, y)];
    const room = used.map((places) => Math.min(Infinity, ...places.map((one) => Math.hypot(one[0] - middle[0], one[1] - middle[1]))));
    group.colour = room.indexOf(Math.max(...room));
    used[group.colour].push(middle);
    for (const point of group.points) colours.of[point] = group.colour;
    if (colours.groups.length > 1) colours.labels.push({ x: middle[0], y: middle[1], text: group.name });
  }
}

function placesOf(of, wanted) {
  const found = [];
  of.forEach((one, at) => { if (one === wanted) found.push(at); });
  return found;
}

function medianOf(points, along) {
  const all = Float32Array.from(points, (point) => along[point]).sort();
  return all[all.length >> 1] ?? 0;
}

const brief = (number) => Number(Number(number.rawJSON ?? number).toPrecision(4)).toLocaleString("en");

/** The legend; `choose(entry)` is called with what was pressed, null when it is let go. */
export function legendOf({ entries, scale, logarithmic }, palette, choose) {
  let pressed = null;
  const buttons = entries.map((entry) => el("button", { type: "button", class: "choice", "aria-pressed": "false" },
    swatch(palette[entry.colour]), el("span", {}, entry.name), el("span", { class: "count" }, whole(entry.points.length))));
  buttons.forEach((button, at) => button.addEventListener("click", () => {
    pressed = pressed === at ? null : at;
    buttons.forEach((one, i) => one.setAttribute("aria-pressed", String(i === pressed)));
    choose(pressed === null ? null : entries[at]);
  }));
  const bar = scale && el("div", { class: "map-scale" }, el("span", {}, brief(scale[0])),
    el("span", { class: "map-shades", "aria-hidden": "true" }, palette.slice(GREY_AT + 1).map(swatch)), el("span", {}, `${brief(scale[1])}${logarithmic ? ", logarithmic" : ""}`));
  return el("div", { class: "map-legend", role: "group", "aria-label": "Colours" }, bar ? [bar] : [], buttons);
}

const swatch = (colour) => el("span", { class: "map-swatch", style: { background: colour } });
