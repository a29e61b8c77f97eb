// The filter of an opened collection: what is set, as chips; fields to press; any condition; or JSON.

import { call, patiently } from "./api.js";
import { complain, el, plural, whole } from "./dom.js";
import { filterOf, partsOf, read, textOf, told } from "./filters.js";
import { canEdit, conditionForm } from "./filters-editor.js";
import { fieldPanel, fieldsOf } from "./filters-facets.js";

const FIRST = 5; // fields that have a button; the others are in a list

/** The filter bar. The filter is in the address, so all parts of the collection follow it. */
export function filterBar(view) {
  const chips = el("ul", { class: "chips", "aria-label": "Filters that are set" });
  const fields = el("div", { class: "fields", role: "group", "aria-label": "Filter by" });
  const panel = el("div", { class: "filter-panel", hidden: true });
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const said = el("p", { class: "hint", role: "status" });
  const bar = { view, chips, fields, panel, error, said, open: null, parts: [], counting: 0, drawing: 0 };
  const element = el("div", { class: "filters", hidden: !view.info.count }, fields, chips, said, panel, error);
  element.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && bar.open) { event.stopPropagation(); show(bar, null); }
  });
  const on = (name, listener) => view.addEventListener(name, listener, { signal: view.signal });
  on("query", (event) => { if (event.detail.includes("filter")) follow(bar); });
  on("facets", () => drawFields(bar));
  on("info", () => { element.hidden = !view.info.count && !view.query.filter; count(bar); });
  fieldsOf(view);
  drawFields(bar);
  follow(bar);
  return element;
}

/** Take the filter of the address. */
function follow(bar) {
  complain(bar.error, null);
  try {
    bar.parts = partsOf(read(bar.view.query.filter));
  } catch (wrong) {
    bar.parts = [];
    complain(bar.error, wrong);
  }
  drawChips(bar);
  count(bar);
  if (bar.open?.field !== undefined) draw(bar); // a form that a person fills stays
  else if (typeof bar.open?.part === "number") show(bar, null); // unless its chip may be another one now
}

const change = (bar, parts) => bar.view.change({ filter: textOf(parts) });

/** Say how many records match. */
async function count(bar) {
  const turn = ++bar.counting, { view } = bar;
  bar.said.textContent = "";
  if (!bar.parts.length) return;
  try {
    const body = { filter: filterOf(bar.parts) };
    const { data } = await patiently([503], () => call("POST", `${view.path}/vectors/count`, body, { signal: view.signal }), () => {}, view.signal);
    if (turn === bar.counting) bar.said.textContent = `${whole(data.count)} of ${plural(view.info.count, "record")} match`;
  } catch (wrong) {
    if (turn === bar.counting && wrong.name !== "AbortError") complain(bar.error, wrong);
  }
}

function drawChips(bar) {
  const one = (part, at) => {
    const text = told(part);
    return el("li", { class: "chip" },
      el("button", { type: "button", class: "change", title: "Change", onclick: () => show(bar, canEdit(part) ? { part: at } : { json: true }) }, text),
      el("button", { type: "button", class: "away", "aria-label": `Remove ${text}`, onclick: () => { change(bar, bar.parts.filter((_, i) => i !== at)); after(bar, at); } }, "×"));
  };
  const clear = el("li", {}, el("button", { type: "button", class: "quiet small", onclick: () => { change(bar, []); after(bar, 0); } }, "Clear all"));
  bar.chips.replaceChildren(...bar.parts.map(one), ...(bar.parts.length > 1 ? [clear] : []));
}

/** The pressed button has gone: the focus goes to the next one, or to the fields. */
function after(bar, at) {
  (bar.chips.querySelectorAll(".away")[Math.min(at, bar.parts.length - 1)] ?? bar.fields.querySelector("button")).focus();
}

function drawFields(bar) {
  const focused = bar.fields.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const all = fieldsOf(bar.view), first = all.slice(0, FIRST), others = all.slice(FIRST);
  const button = (text, what) => el("button", {
    type: "button", class: "quiet small", "data-key": text, "aria-expanded": String(same(bar.open, what)),
    onclick: () => show(bar, same(bar.open, what) ? null : what),
  }, text);
  const more = others.length ? el("select", { class: "small", "aria-label": "Other fields", "data-key": "others" },
    el("option", { value: "" }, `${others.length} more fields`), others.map((one) => el("option", { value: one.field, selected: bar.open?.field === one.field }, one.field))) : null;
  more?.addEventListener("change", () => show(bar, more.value ? { field: more.value } : null));
  bar.fields.replaceChildren(el("span", { class: "hint" }, "Filter by"), ...first.map((one) => button(one.field, { field: one.field })),
    ...[more].filter(Boolean), button("Condition", { part: null }), button("JSON", { json: true }));
  if (focused) bar.fields.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** Open a panel: `{field}`, `{part}` (a chip's number, null for a new one), `{json}`; null closes it. */
function show(bar, what) {
  const before = bar.open;
  bar.open = what;
  complain(bar.error, null);
  drawFields(bar);
  if (what) draw(bar, true);
  else {
    bar.panel.hidden = true;
    const back = before?.field ?? (before?.json ? "JSON" : "Condition");
    (bar.fields.querySelector(`[data-key="${CSS.escape(back)}"]`) ?? bar.fields.querySelector("select"))?.focus();
  }
}

async function draw(bar, focus = false) {
  const { open, panel, view } = bar, turn = ++bar.drawing;
  if (open.field === undefined) {
    const form = open.json ? jsonForm(bar) : partForm(bar);
    panel.replaceChildren(form.element);
    panel.hidden = false;
    if (focus) form.focus();
    return;
  }
  try {
    const made = await fieldPanel(view, open.field, bar.parts, (update) => change(bar, update(bar.parts)));
    if (turn !== bar.drawing || bar.open !== open) return; // another was opened meanwhile
    const focused = panel.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    panel.replaceChildren(made, el("div", { class: "actions" },
      el("button", { type: "button", class: "quiet small", onclick: () => show(bar, { part: null, of: open.field }) }, "Another condition"),
      el("button", { type: "button", class: "quiet small", onclick: () => show(bar, null) }, "Close")));
    panel.hidden = false;
    if (focused) panel.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  } catch (wrong) {
    if (wrong.name !== "AbortError") complain(bar.error, wrong);
  }
}

function partForm(bar) {
  const { part: at, of } = bar.open;
  return conditionForm(fieldsOf(bar.view), at === null ? null : bar.parts[at], of, (made) => {
    if (made) change(bar, at === null ? [...bar.parts, made] : bar.parts.map((part, i) => (i === at ? made : part)));
    show(bar, null);
  });
}

/** The filter as JSON, with all that the API takes. */
function jsonForm(bar) {
  const area = el("textarea", { id: "filter-json", rows: "5", spellcheck: "false", class: "mono" });
  area.value = bar.parts.length ? JSON.stringify(filterOf(bar.parts), null, 2) : bar.view.query.filter ?? "";
  const wrong = el("p", { class: "error", role: "alert", hidden: true });
  const form = el("form", {}, el("label", { for: "filter-json" }, "Filter as JSON"), area,
    el("p", { class: "hint" }, 'For example {"year": {"$gte": 2020}, "$or": [{"lang": "en"}, {"tags": {"$contains": "new"}}]}'), wrong,
    el("div", { class: "actions" }, el("button", { type: "submit", class: "small" }, "Apply"), el("button", { type: "button", class: "quiet small", onclick: () => show(bar, null) }, "Cancel")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const parts = partsOf(read(area.value.trim()));
      // The service knows best what a filter is: it says what is wrong before anything follows it.
      await call("POST", `${bar.view.path}/vectors/count`, { filter: filterOf(parts) }, { signal: bar.view.signal });
      change(bar, parts);
      show(bar, null);
    } catch (error) {
      complain(wrong, error);
    }
  });
  return { element: form, focus: () => area.focus() };
}
