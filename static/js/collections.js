// The Collections tab: make one, fill it, search it, look at it, delete it.

import { call, may, patiently } from "./api.js";
import { $, complain, confirmed, during, el, facts, plural, toast, whole } from "./dom.js";
import { drawMap } from "./map.js";
import { refreshModels } from "./pick.js";
import { SAMPLES } from "./samples.js";
import { uploadCard } from "./upload.js";

const HITS = 10;
const pathOf = (name) => `/collections/${encodeURIComponent(name)}`;
let chosen = null;
let light = () => {};

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
  const { collections } = (await call("GET", "/collections")).data;
  if (!collections.some((one) => one.name === chosen)) chosen = collections[0]?.name ?? null;
  drawList(collections);
  $("collection-new").hidden = !may("write");
  $("collection-new").querySelector("details").open = !collections.length;
  const info = collections.find((one) => one.name === chosen);
  if (info) await open(info);
  else $("collection-detail").replaceChildren(nothingYet());
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

/** Show a collection; `upload` is the card of an upload that is under way or just done. */
async function open(info, upload = uploadCard(info.name, () => refresh(info.name))) {
  const results = el("div", { class: "results", "aria-live": "polite" });
  const mapPlace = el("div", { class: "card map-card" });
  $("collection-detail").replaceChildren(
    el("div", { class: "heading" }, el("h2", { class: "name" }, info.name),
      may("write") ? el("button", { type: "button", class: "quiet small danger-text", onclick: () => remove(info) }, "Delete") : null),
    facts({ Texts: whole(info.count), Dimensions: whole(info.dimension), Metric: info.metric, Model: info.model ?? "any" }),
    info.count ? searchForm(info, results) : el("p", { class: "empty" }, may("write") ? "It is empty. Add a file, and its texts can be searched." : "It is empty."),
    el("div", { class: "found" }, results, info.count ? mapPlace : null),
    ...(may("write") ? [upload] : []));
  if (info.count) await loadMap(info, mapPlace);
}

async function refresh(name) {
  try {
    const { collections } = (await call("GET", "/collections")).data;
    drawList(collections);
    const info = collections.find((one) => one.name === name);
    if (!info || chosen !== name) return;
    await open(info, document.querySelector("#collection-detail .drop")); // its progress stays in sight
    toast(`${name} holds ${plural(info.count, "text")}`);
  } catch (error) {
    toast(error.message);
  }
}

async function loadMap(info, place) {
  const map = (await call("GET", `${pathOf(info.name)}/map`)).data;
  const drawn = drawMap(map);
  light = drawn.light;
  const share = Math.round(100 * (map.explained[0] + map.explained[1]));
  const part = map.points.length < map.count ? `the first ${whole(map.points.length)} of ${plural(map.count, "text")}` : plural(map.count, "text");
  place.replaceChildren(
    el("div", { class: "heading" }, el("h2", {}, "Map"), el("p", { class: "hint" }, `${part} · ${share} % of the variance`)),
    drawn.element);
}

function searchForm(info, results) {
  const input = el("input", { id: "search-text", type: "search", required: true, autocomplete: "off",
    placeholder: "What are you looking for?", "aria-label": "Search by meaning" });
  const form = el("form", { class: "search" }, input, el("button", { type: "submit" }, "Search"),
    el("p", { class: "error", role: "alert", hidden: true }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async (tell) => {
      const query = { text: input.value, k: HITS };
      const { data, ms } = await patiently([503], () => call("POST", `${pathOf(info.name)}/search`, query), tell);
      results.replaceChildren(el("p", { class: "hint" }, `${plural(data.results.length, "result")} in ${ms.toFixed(0)} ms`),
        el("ol", {}, data.results.map(hit)));
      light(data.results.map((one) => one.id));
    });
  });
  input.addEventListener("input", () => {
    if (input.value) return;
    results.replaceChildren();
    light([]);
    complain(form.querySelector(".error"), null);
  });
  return form;
}

function hit(one) {
  const score = el("span", { class: "score" }, one.score.toFixed(3));
  score.style.setProperty("--share", Math.max(0, Math.min(1, one.score)).toFixed(3));
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
