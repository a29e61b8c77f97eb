// The frame of an opened collection: its name and facts, the search, and below it one of four parts.

import { call, may } from "./api.js";
import { copyButton, el, facts, whole } from "./dom.js";
import { drawerPart } from "./drawer.js";
import { searchPart } from "./search.js";
import { tabs } from "./tabs.js";
import { View } from "./view.js";

// Each is fetched when it is first shown: an opened collection is there sooner on a slow line.
const PARTS = [
  { name: "map", title: "Map", make: async (view) => (await import("./map.js")).mapPart(view), for: "read" },
  { name: "records", title: "Records", make: async (view) => (await import("./records.js")).recordsPart(view), for: "read" },
  { name: "add", title: "Add a file", make: async (view) => (await import("./files.js")).addPart(view), for: "write" },
  { name: "manage", title: "Manage", make: async (view) => (await import("./manage.js")).managePart(view), for: "read" },
];

/** Open a collection: `{view, element}`. `told(info)` is called when its description was read anew. */
export function openCollection(info, query, told) {
  const view = new View(info, query, async () => {
    view.info = (await call("GET", view.path)).data;
    view.dispatchEvent(new Event("info"));
    told(view.info);
  });
  const about = el("div", {});
  const describe = () => about.replaceChildren(factsOf(view.info));
  describe();
  view.addEventListener("info", describe);
  const element = el("div", { class: "collection" },
    el("div", { class: "heading" }, el("h2", { class: "name" }, info.name), copyButton(() => location.href, "Copy link")),
    about, searchPart(view), parts(view), drawerPart(view));
  return { view, element };
}

const factsOf = (info) => facts({
  Texts: whole(info.count), Dimensions: whole(info.dimension), Metric: info.metric, Model: info.model ?? "any",
  ...(info.indexed.length ? { "Fields kept ready for filters": info.indexed.join(", ") } : {}),
});

/** The sub-tabs; each part is made when it is first shown. */
function parts(view) {
  const offered = PARTS.filter((part) => may(part.for)), made = new Set();
  const list = el("div", { class: "tabs subtabs", role: "tablist", "aria-label": "Parts of the collection" }, offered.map((part) => el("button", {
    type: "button", role: "tab", id: `subtab-${part.name}`, "data-name": part.name, "aria-controls": `part-${part.name}`,
  }, part.title)));
  const panels = el("div", {}, offered.map((part) => el("div", {
    role: "tabpanel", id: `part-${part.name}`, "aria-labelledby": `subtab-${part.name}`, hidden: true,
  })));
  // An empty collection has nothing to see: it opens where it is filled.
  const usual = view.info.count || !may("write") ? "map" : "add";
  const mark = tabs(list, (name) => view.change({ show: name === usual ? null : name }));
  const show = () => {
    const name = offered.some((part) => part.name === view.query.show) ? view.query.show : usual;
    mark(name);
    for (const panel of panels.children) panel.hidden = panel.id !== `part-${name}`;
    if (made.has(name)) return;
    made.add(name);
    const panel = panels.querySelector(`#part-${name}`), failed = (error) => {
      made.delete(name);
      console.error(error);
      panel.replaceChildren(el("p", { class: "error", role: "alert" }, "The service does not answer. Choose this again to try again."));
    };
    offered.find((part) => part.name === name).make(view).then((part) => panel.replaceChildren(part), failed);
  };
  view.addEventListener("query", (event) => { if (event.detail.includes("show")) show(); });
  show();
  return el("div", { class: "parts" }, list, panels);
}
