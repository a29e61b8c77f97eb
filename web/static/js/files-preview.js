// Shows what will be stored of a file: how it is read, its columns, its first rows, what is wrong.

import { call, patiently } from "./api.js";
import { complain, el, field, plural, whole } from "./dom.js";
import { sizeOf } from "./files-send.js";

const KINDS = { csv: "CSV or TSV", jsonl: "JSON lines", json: "JSON array", txt: "Text, one a line", parquet: "Parquet" };
const ENCODINGS = { "utf-8": "UTF-8", "windows-1252": "Windows-1252", "latin-1": "Latin-1", "utf-16": "UTF-16", "utf-16-le": "UTF-16 LE", "utf-16-be": "UTF-16 BE" };
const DELIMITERS = { ",": "comma", ";": "semicolon", "\t": "tab", "|": "bar" };
const ROLES = { text: "text", id: "id", metadata: "metadata", none: "leave out" };
const TYPES = { text: "text", number: "number", boolean: "true or false", date: "date", json: "JSON" };
const OF_COLUMNS = { text: undefined, id: undefined, metadata: undefined, types: undefined };

/** Show a file that waits in `place`. One of `then` is called at the end: `stored()`, `discarded()`, or
    `refused(error)` for what cannot be read at all. */
export async function showPreview(place, job, then) {
  let changes = {}, drawn = {}, shown = null, turn = 0; // what is chosen, and of that what is shown
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const store = el("button", { type: "button", onclick: () => act(async () => {
    await patiently([429, 503], () => call("POST", `/jobs/${job.id}/start`, bodyOf(shown.layout, changes)), (problem) => complain(error, problem));
    await then.stored();
  }) });
  const discard = el("button", { type: "button", class: "quiet", onclick: () => act(async () => {
    await call("DELETE", `/jobs/${job.id}`);
    await then.discarded();
  }) }, "Discard");
  const act = async (work) => {
    store.disabled = discard.disabled = true;
    try {
      await work();
    } catch (problem) {
      complain(error, problem);
    } finally {
      store.disabled = discard.disabled = false;
    }
  };
  // What is chosen next builds on what was chosen before, also while the service is still asked about that.
  const change = async (choose) => {
    const chosen = Object.entries(changes).filter(([, value]) => value !== undefined);
    const focused = document.activeElement?.id, mine = turn + 1;
    changes = { ...changes, ...choose({ ...shown.layout, ...Object.fromEntries(chosen) }, changes.types) };
    try {
      await look();
    } catch (problem) {
      if (mine !== turn) return;
      changes = drawn;
      draw();
      complain(error, problem);
    }
    if (focused && mine === turn) document.getElementById(focused)?.focus();
  };
  const look = async () => {
    const mine = ++turn, asked = changes;
    place.setAttribute("aria-busy", "true");
    store.disabled = true; // it would store what is shown, not what is chosen
    let found;
    try {
      found = (await patiently([503], () => call("POST", `/jobs/${job.id}/preview`, asked), () => {})).data;
    } finally {
      if (mine === turn) place.removeAttribute("aria-busy");
    }
    if (mine !== turn) return;
    [shown, drawn] = [found, asked];
    complain(error, null);
    draw();
  };
  const draw = () => {
    const good = shown.complete ? shown.read - shown.rejected - shown.blank : null;
    store.textContent = good === null ? "Store it" : `Store ${plural(good, "row")}`;
    store.disabled = good === 0 || (shown.layout.kind !== "txt" && !shown.layout.text.length);
    place.replaceChildren(el("div", { class: "preview" },
      el("div", { class: "heading" }, el("div", {}, el("h3", {}, job.file.name), el("p", { class: "hint" }, summary(shown, job.file.bytes))),
        el("div", { class: "actions" }, store, discard)),
      error, doubt(shown), reading(shown, change), columnsOf(shown, change), rowsOf(shown), problemsOf(shown)));
  };
  try {
    await look();
  } catch (problem) {
    if (problem.status === 422) await then.refused(problem);
    else throw problem;
  }
}

/** What is chosen, in full: what the service guessed of it must not change until it is stored. */
const bodyOf = (layout, changes) => ({ ...layout, types: layout.kind === "csv" ? layout.types : { ...changes.types } });

function summary(shown, bytes) {
  const rows = shown.complete ? plural(shown.total - shown.blank, "row") : `about ${plural(shown.total, "row")}, of which the first ${whole(shown.read)} were looked at`;
  const wrong = shown.rejected ? ` · ${plural(shown.rejected, "row")} cannot be stored` : "";
  return `${sizeOf(bytes)} · ${rows}${wrong}`;
}

function doubt({ layout, sure, warnings }) {
  const [first] = layout.text, named = layout.kind === "txt" || (sure && first);
  const said = named ? [] : [first ? `No column is called text; “${first}” has the longest ones. Check it below.` : "Choose the column of the texts below."];
  return [...said, ...warnings].map((text) => el("p", { class: "note" }, text));
}

const choice = (id, values, chosen, onchange) => el("select", { id, onchange: (event) => onchange(event.target.value) },
  Object.entries(values).map(([value, text]) => el("option", { value, selected: value === chosen }, text)));

/** How the file is read; whatever is changed here has other columns. */
function reading({ layout }, change) {
  const set = (name) => (value) => change(() => ({ ...OF_COLUMNS, [name]: value }));
  return el("div", { class: "row reading" },
    field("Kind", choice("file-kind", KINDS, layout.kind, (kind) => change(() => ({ ...OF_COLUMNS, kind, delimiter: undefined, header: undefined, encoding: undefined })))),
    layout.encoding ? field("Encoding", choice("file-encoding", ENCODINGS, layout.encoding, set("encoding"))) : null,
    layout.kind === "csv" ? field("Delimiter", choice("file-delimiter", DELIMITERS, layout.delimiter, set("delimiter"))) : null,
    layout.kind === "csv" ? field("First row", choice("file-header", { true: "column names", false: "a row" }, String(layout.header), (value) => set("header")(value === "true"))) : null);
}

function roleOf(layout, name) {
  if (layout.text.includes(name)) return "text";
  if (layout.id === name) return "id";
  return layout.metadata === null || layout.metadata.includes(name) ? "metadata" : "none";
}

/** What the choice of a column's role changes. */
function withRole(layout, columns, name, role) {
  const text = layout.text.filter((one) => one !== name), id = layout.id === name ? "" : layout.id;
  const metadata = columns.map((one) => one.name).filter((one) => one !== name && roleOf(layout, one) === "metadata");
  return {
    text: role === "text" ? [...text, name] : text,
    id: role === "id" ? name : id,
    metadata: role === "metadata" ? [...metadata, name] : metadata,
  };
}

function columnsOf(shown, change) {
  if (!shown.columns.length) return null;
  const rows = shown.columns.map((column, i) => {
    const role = roleOf(shown.layout, column.name);
    return el("tr", {},
      el("th", { scope: "row" }, column.name),
      el("td", {}, named(choice(`column-role-${i}`, ROLES, role, (value) => change((layout) => withRole(layout, shown.columns, column.name, value))), `Use of ${column.name}`)),
      el("td", {}, role === "metadata" ? named(choice(`column-type-${i}`, TYPES, column.type, (type) => change((_, types) => ({ types: { ...types, [column.name]: type } }))), `Type of ${column.name}`) : null),
      el("td", { class: "example" }, column.example || (column.filled ? "" : "empty")));
  });
  return el("div", { class: "rows columns", tabindex: "0", role: "region", "aria-label": "Columns" }, el("table", {},
    el("thead", {}, el("tr", {}, ["Column", "Use", "Type", "Example"].map((title) => el("th", { scope: "col" }, title)))), el("tbody", {}, rows)));
}

function named(select, label) {
  select.setAttribute("aria-label", label);
  select.classList.add("small");
  return select;
}

const cell = (value) => (value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value));

function rowsOf({ rows, layout }) {
  if (!rows.length) return el("p", { class: "empty" }, "None of the rows can be stored as they are read now.");
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.metadata)))], ids = Boolean(layout.id);
  return el("div", { class: "rows", tabindex: "0", role: "region", "aria-label": "First rows" }, el("table", {},
    el("caption", {}, `The first ${plural(rows.length, "row")}, as ${rows.length === 1 ? "it" : "they"} will be stored`),
    el("thead", {}, el("tr", {}, [...(ids ? ["id"] : []), "text", ...names].map((title) => el("th", { scope: "col" }, title)))),
    el("tbody", {}, rows.map((row) => el("tr", {},
      ids ? el("td", { class: "mono" }, row.id ?? "(made)") : null,
      el("td", { class: "text" }, row.text),
      names.map((name) => el("td", {}, cell(row.metadata[name]))))))));
}

function problemsOf({ problems, rejected }) {
  if (!problems.length) return null;
  const more = rejected > problems.length ? `, the first ${problems.length} of ${whole(rejected)}` : "";
  return el("div", { class: "problems" }, el("h3", {}, `Rows that cannot be stored${more}`),
    el("ul", {}, problems.map(({ line, reason }) => el("li", {}, `Line ${whole(line)} ${reason}`))));
}
