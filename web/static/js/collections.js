// The Collections tab: the list, a new one, and the one that is opened.

import * as address from "./address.js";
import { call, may, patiently } from "./api.js";
import { openCollection } from "./collection.js";
import { fileOffer } from "./files.js";
import { $, during, el, toast, whole } from "./dom.js";
import { refreshModels } from "./pick.js";
import { SAMPLES } from "./samples.js";

let opened = null; // the view of the collection that is shown
let turn = 0; // of showing the tab, 0 while another is open: what comes late is dropped
let last = null; // the place that was looked at last, for who comes back to the tab

/** Make the tab work; called once. */
export function setUp() {
  const form = $("collection-new");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async () => {
      const name = $("new-name").value.trim();
      await call("POST", "/collections", { name, model: $("new-model").value });
      form.reset();
      await go(name);
    });
  });
}

/** Open a collection that was just made, and put it into the address; not for who left the tab. */
async function go(name) {
  if (!turn) return;
  const place = { tab: "collections", name, query: {} };
  address.write(place);
  await show(place);
}

/** Called when another tab is opened. */
export function hide() {
  turn = 0;
}

/** Called whenever the tab is opened, with what the address says. */
export async function show(place) {
  const mine = turn = performance.now();
  const [collections] = await Promise.all([listed(), refreshModels($("new-model"))]);
  if (turn !== mine) return;
  $("collection-new").hidden = !may("write");
  $("collection-new").querySelector("details").open = !collections.length;
  if (place.name === null) {
    const known = collections.some((one) => one.name === last?.name);
    place = known ? last : { tab: "collections", name: collections[0]?.name ?? null, query: {} };
    address.write(place, { replace: true });
  }
  drawList(collections, place.name);
  const info = collections.find((one) => one.name === place.name);
  if (info) open(info, place.query);
  else {
    close();
    $("collection-detail").replaceChildren(place.name === null ? nothingYet() : unknown(place.name, collections));
  }
}

/** The address changed while the tab is open. */
export async function move(place) {
  if (opened && opened.info.name === place.name) opened.take(place.query);
  else await show(place);
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

function unknown(name, collections) {
  return el("div", { class: "empty" }, el("h2", {}, "No such collection"),
    el("p", {}, `There is no collection “${name}” here, or you may not see it.`),
    el("p", {}, el("a", { href: address.hashOf({ tab: "collections" }) }, collections.length ? "Show another" : "Start one")));
}

/** What a newcomer sees: a collection to look at is one press away. */
function nothingYet() {
  if (!may("write")) return el("div", { class: "empty" }, el("h2", {}, "No collection yet"), el("p", {}, "A user who may store texts has to create one first."));
  const form = el("form", { class: "empty" }, el("h2", {}, "No collection yet"),
    el("p", {}, "Fill one with your own file, or start with sample texts."),
    el("div", { class: "actions" }, el("button", { type: "submit" }, "Add a sample collection")),
    el("p", { class: "error", role: "alert", hidden: true }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async (tell) => {
      const [texts, ids, metadata] = ["text", "id", "metadata"].map((key) => SAMPLES.map((one) => one[key]));
      await patiently([503], () => call("POST", "/embed-and-store", { collection: "samples", texts, ids, metadata }), tell);
      await go("samples");
      toast("Search it by meaning: try “cooking”");
    });
  });
  const offer = fileOffer(async (name) => {
    await call("POST", "/collections", { name, model: $("new-model").value });
    await go(name);
  });
  return el("div", {}, form, offer);
}

function drawList(collections, chosen) {
  $("collection-list").replaceChildren(...collections.map((one) => el("a", {
    class: "item", href: address.hashOf({ tab: "collections", name: one.name }), "aria-current": one.name === chosen ? "true" : null, "data-name": one.name,
  }, el("span", {}, one.name), el("span", { class: "count" }, whole(one.count)))));
}

function close() {
  opened?.close();
  opened = null;
}

/** Show a collection. */
function open(info, query) {
  close();
  const { view, element } = openCollection(info, query, async () => drawList(await listed(), opened?.info.name));
  opened = view;
  document.title = `${info.name} · Collections · Embedding Service`;
  last = { tab: "collections", name: info.name, query };
  view.addEventListener("query", () => { last = { tab: "collections", name: info.name, query: view.query }; });
  $("collection-detail").replaceChildren(element);
}
