// The records of the opened collection as a table: by id, page by page, under the filter.

import { call, may, patiently } from "./api.js";
import { complain, confirmed, el, plural, toast, whole } from "./dom.js";
import { filterOf, partsOf, read } from "./filters.js";
import { fieldsOf } from "./filters-facets.js";
import { exportIds } from "./records-export.js";
import { brief, recordLink, short } from "./search-hits.js";

const PAGE = 50, FIRST_COLUMNS = 4, CELL = 160;

/** A table of records. The address has `filter`, `after` (the id before the page) and `columns`. */
export function recordsPart(view) {
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const said = el("p", { class: "hint", role: "status" });
  const columns = el("details", { class: "columns" });
  const bar = el("div", { class: "selection", hidden: true });
  const table = el("div", { class: "records", tabindex: "0", role: "region", "aria-label": "Records" });
  const pager = el("div", { class: "actions pager" });
  const part = { view, error, said, columns, bar, table, pager, turn: 0, page: [], next: null, before: [], chosen: new Set(), total: null };
  const on = (name, listener) => view.addEventListener(name, listener, { signal: view.signal });
  on("query", ({ detail }) => {
    if (detail.includes("filter")) {
      part.chosen.clear();
      if (view.query.after !== undefined) return view.change({ after: null }); // one step of the history with it
    }
    if (detail.includes("filter")) load(part);
    else if (detail.includes("after")) load(part).then(() => said.scrollIntoView({ block: "nearest" })); // the page's first row
    else if (detail.includes("columns")) draw(part);
    else if (detail.includes("id")) mark(part);
  });
  on("info", () => load(part));
  on("facets", () => draw(part));
  fieldsOf(view);
  load(part);
  return el("div", { class: "card records-card" },
    el("div", { class: "heading" }, said, columns), error, bar, table, pager);
}

const filterNow = ({ query }) => (query.filter ? filterOf(partsOf(read(query.filter))) : null);

async function load(part) {
  const turn = ++part.turn, { view } = part, { signal } = view;
  // After Back, or a reload, fewer of the pages before this one are known.
  part.before.length = part.before.findLastIndex((one) => one.cursor === view.query.after) + 1;
  complain(part.error, null);
  part.table.setAttribute("aria-busy", "true");
  try {
    const filter = filterNow(view);
    const ask = (path, body) => patiently([503], () => call("POST", `${view.path}/vectors/${path}`, body, { signal }), () => {}, signal);
    const [{ data }, { data: counted }] = await Promise.all([
      ask("scroll", { cursor: view.query.after ?? null, limit: PAGE, filter }), ask("count", { filter })]);
    if (turn !== part.turn) return;
    [part.page, part.next, part.total] = [data.vectors, data.next_cursor, counted.count];
    draw(part);
  } catch (error) {
    if (turn === part.turn && error.name !== "AbortError") complain(part.error, error);
  } finally {
    if (turn === part.turn) part.table.removeAttribute("aria-busy");
  }
}

/** The fields that have a column: those of the address, or those of most records. */
function chosenColumns({ view }) {
  try {
    const named = JSON.parse(view.query.columns);
    if (Array.isArray(named)) return named.filter((name) => typeof name === "string");
  } catch { /* none are named, or not by us */ }
  return fieldsOf(view).slice(0, FIRST_COLUMNS).map((one) => one.field);
}

function draw(part) {
  if (part.total === null) return; // nothing was read yet
  const { view, page, total } = part, fields = chosenColumns(part);
  const from = view.query.after === undefined ? 1 : part.before.at(-1)?.upto;
  part.said.textContent = !page.length && total ? "No record is left on this page."
    : !page.length ? (view.query.filter ? "No record matches the filter." : "No record is stored here.")
    : from ? `${whole(from)}–${whole(from + page.length - 1)} of ${plural(total, "record")}, by id` : `${plural(page.length, "record")} by id, of ${whole(total)}`;
  drawColumns(part, fields);
  const all = el("input", { type: "checkbox", "aria-label": "Choose all on this page" });
  all.checked = page.length > 0 && page.every((one) => part.chosen.has(one.id));
  all.addEventListener("change", () => { for (const one of page) part.chosen[all.checked ? "add" : "delete"](one.id); draw(part); });
  const head = el("tr", {}, el("th", { class: "tick" }, all), el("th", { scope: "col" }, "Id"), el("th", { scope: "col" }, "Text"), fields.map((name) => el("th", { scope: "col" }, name)));
  part.table.replaceChildren(...(page.length ? [el("table", {}, el("thead", {}, head), el("tbody", {}, page.map((one) => row(part, one, fields))))] : []));
  mark(part);
  drawBar(part);
  drawPager(part);
}

function row(part, one, fields) {
  const tick = el("input", { type: "checkbox", "aria-label": `Choose ${brief(one.id, CELL)}` });
  tick.checked = part.chosen.has(one.id);
  tick.addEventListener("change", () => { part.chosen[tick.checked ? "add" : "delete"](one.id); drawBar(part); });
  const line = el("tr", { "data-id": one.id }, el("td", { class: "tick" }, tick),
    el("th", { scope: "row" }, recordLink(part.view, one.id, brief(one.id, CELL))),
    el("td", { class: "text" }, one.text === undefined ? el("span", { class: "hint" }, "no text") : brief(one.text, CELL)),
    fields.map((name) => cell(valueAt(one.metadata ?? {}, name))));
  line.addEventListener("click", (event) => { if (!event.target.closest("a, input, .tick") && !String(getSelection())) part.view.change({ id: one.id }); });
  return line;
}

/** The value of a field as filters name it, `author.name`; undefined where there is none. */
function valueAt(metadata, name) {
  let value = metadata;
  for (const key of name.split(".")) {
    if (value === null || typeof value !== "object" || Array.isArray(value) || !Object.hasOwn(value, key)) return undefined;
    value = value[key];
  }
  return value;
}

function cell(value) {
  if (value === undefined) return el("td", {});
  return el("td", { class: typeof value === "number" ? "number" : null }, short(value, CELL));
}

/** Show which row is open in the drawer. */
function mark({ view, table }) {
  for (const line of table.querySelectorAll("tbody tr")) line.classList.toggle("open", line.dataset.id === view.query.id);
}

function drawColumns(part, fields) {
  const { view, columns } = part, all = [...new Set([...fieldsOf(view).map((one) => one.field), ...fields])];
  const focused = columns.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  columns.hidden = !all.length;
  columns.replaceChildren(el("summary", { "data-key": "" }, "Columns"), el("div", { class: "column-list" }, all.map((name) => {
    const tick = el("input", { type: "checkbox", "data-key": name });
    tick.checked = fields.includes(name);
    tick.addEventListener("change", () => view.change({ columns: JSON.stringify(tick.checked ? [...fields, name] : fields.filter((one) => one !== name)) }, { replace: true }));
    return el("label", { class: "check" }, tick, name);
  })));
  if (focused !== null) columns.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function drawBar(part) {
  const { bar, chosen, view } = part, ids = [...chosen];
  bar.hidden = !ids.length;
  const button = (text, act, kind = "quiet") => el("button", { type: "button", class: `${kind} small`, onclick: act }, text);
  bar.replaceChildren(el("span", { role: "status" }, `${plural(ids.length, "record")} chosen`),
    button("Export", () => exportIds(view, ids).catch((error) => complain(part.error, error))),
    ...(may("write") ? [button("Delete", () => remove(part, ids), "quiet danger-text")] : []),
    button("Choose none", () => { chosen.clear(); draw(part); }));
}

async function remove(part, ids) {
  if (!await confirmed(`Delete ${plural(ids.length, "record")}?`, "Their texts and vectors will be gone. This cannot be undone.", "Delete")) return;
  try {
    let deleted = 0;
    for (let at = 0; at < ids.length; at += 1000) {
      deleted += (await call("POST", `${part.view.path}/vectors/delete`, { ids: ids.slice(at, at + 1000) })).data.deleted;
    }
    part.chosen.clear();
    toast(`${plural(deleted, "record")} deleted`);
  } catch (error) {
    complain(part.error, error);
  }
  await part.view.again().catch((error) => complain(part.error, error));
}

function drawPager(part) {
  const { view, pager, page, next, before } = part;
  const focused = pager.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const button = (text, off, act) => el("button", { type: "button", class: "quiet small", "data-key": text, disabled: off, onclick: act }, text);
  const back = () => { before.pop(); view.change({ after: before.at(-1)?.cursor ?? null }); };
  const upto = () => (view.query.after === undefined ? 1 : before.at(-1)?.upto ?? NaN) + page.length;
  pager.hidden = view.query.after === undefined && next === null;
  pager.replaceChildren(
    button("First", view.query.after === undefined, () => { part.before = []; view.change({ after: null }); }),
    button("Previous", !before.length, back),
    button("Next", next === null, () => { before.push({ cursor: next, upto: upto() || undefined }); view.change({ after: next }); }));
  if (focused) (pager.querySelector(`[data-key="${focused}"]:not(:disabled)`) ?? pager.querySelector("button:not(:disabled)"))?.focus();
}
