// The record whose id is in the address, beside whatever else is shown: text, metadata, vector; edit, delete.

import { call, may, patiently } from "./api.js";
import { confirmed, copyButton, el, plural, toast, whole } from "./dom.js";
import { editForm } from "./drawer-edit.js";
import { flat, likeButton } from "./search-hits.js";

const NUMBERS = 8; // of a vector that are shown
const LONG = 20000; // characters of a text before the rest is folded away

/** The drawer of one record. */
export function drawerPart(view) {
  const title = el("h2", { tabindex: "-1" }, "Record");
  const close = el("button", { type: "button", class: "quiet small", onclick: () => view.change({ id: null }) }, "Close");
  const body = el("div", { class: "drawer-body" });
  const element = el("aside", { class: "drawer", "aria-label": "Record", hidden: true }, el("div", { class: "heading" }, title, close), body);
  const drawer = { view, element, title, body, turn: 0, shown: null, editing: null, opener: null };
  element.addEventListener("keydown", (event) => {
    if (event.key === "Escape") view.change({ id: null });
  });
  const on = (name, listener) => view.addEventListener(name, listener, { signal: view.signal });
  on("query", (event) => { if (event.detail.includes("id")) follow(drawer); });
  on("info", () => { if (drawer.shown !== null && !drawer.editing) load(drawer); });
  if (view.query.id !== undefined) follow(drawer, false);
  return element;
}

/** Show the record of the address, or nothing. */
async function follow(drawer, focus = true) {
  const { view, element } = drawer, { id } = view.query;
  if (drawer.editing?.changed() && id !== drawer.shown) {
    const stay = drawer.shown;
    if (!await confirmed("Leave without saving?", "What you changed in this record will be lost.", "Leave")) {
      if (view.query.id !== stay) view.change({ id: stay });
      return;
    }
    if (view.query.id !== id) return; // another one was asked for meanwhile
  }
  if (id === drawer.shown) return;
  drawer.editing = null;
  if (id === undefined) {
    const back = element.contains(document.activeElement) || document.activeElement === document.body ? drawer.opener : null;
    drawer.shown = null;
    drawer.turn += 1;
    element.hidden = true;
    drawer.body.replaceChildren();
    if (back?.isConnected) back.focus();
    return;
  }
  if (drawer.shown === null) drawer.opener = document.activeElement;
  drawer.shown = id;
  drawer.body.replaceChildren(el("p", { class: "hint" }, "Reading …"));
  element.hidden = false;
  element.scrollTop = 0;
  if (focus) drawer.title.focus({ preventScroll: true });
  await load(drawer);
}

async function load(drawer) {
  const turn = ++drawer.turn, { view, shown: id } = drawer, { signal } = view;
  const problem = (...children) => drawer.body.replaceChildren(...children);
  try {
    const { data } = await patiently([503], () => call("POST", `${view.path}/vectors/get`, { ids: [id] }, { signal }), () => {}, signal);
    if (turn !== drawer.turn) return;
    if (data.vectors.length) draw(drawer, data.vectors[0]);
    else problem(idLine(id), el("p", { role: "status" }, "There is no record with this id here. It may have been deleted."));
  } catch (error) {
    if (turn === drawer.turn && error.name !== "AbortError") {
      problem(idLine(id), el("p", { class: "error", role: "alert" }, error.message),
        el("div", { class: "actions" }, el("button", { type: "button", class: "quiet small", onclick: () => load(drawer) }, "Try again")));
    }
  }
}

const idLine = (id) => el("div", { class: "id-line" }, el("span", { class: "mono" }, id), copyButton(() => id, "Copy id"));

function draw(drawer, record) {
  const { view, body } = drawer;
  drawer.editing = null;
  const button = (text, act, more = "") => el("button", { type: "button", class: `quiet small ${more}`, onclick: act }, text);
  body.replaceChildren(idLine(record.id),
    el("div", { class: "actions" }, likeButton(view, record.id),
      ...(may("write") ? [button("Edit", () => edit(drawer, record)), button("Delete", () => remove(drawer, record.id), "danger-text")] : []),
      copyButton(() => location.href, "Copy link")),
    el("h3", {}, "Text"), ...textOf(record.text),
    el("h3", {}, "Metadata"), metadataOf(record.metadata ?? {}),
    el("h3", {}, "Vector"), vectorOf(record.vector));
}

function textOf(text) {
  if (text === undefined || text === null) return [el("p", { class: "hint" }, "This record has no text.")];
  if (text.length <= LONG) return [el("p", { class: "whole-text" }, text || "(an empty text)")];
  const rest = el("button", { type: "button", class: "quiet small" }, `Show all ${whole(text.length)} characters`), shown = el("p", { class: "whole-text" }, `${text.slice(0, LONG)}…`);
  rest.addEventListener("click", () => { shown.textContent = text; rest.remove(); });
  return [shown, rest];
}

/** Metadata field by field, as filters name them. */
function metadataOf(metadata) {
  const rows = flat(metadata);
  if (!rows.length) return el("p", { class: "hint" }, "This record has no metadata.");
  return el("dl", { class: "fields-of" }, rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, typeof value === "string" ? value : JSON.stringify(value)))));
}

function vectorOf(vector) {
  const norm = Math.sqrt(vector.reduce((sum, each) => sum + each * each, 0));
  const first = vector.slice(0, NUMBERS).map((each) => each.toPrecision(4)).join(", ");
  return el("div", {},
    el("p", { class: "hint" }, `${plural(vector.length, "number")}, length ${Number(norm.toPrecision(6))}`),
    el("p", { class: "mono" }, `[${first}${vector.length > NUMBERS ? ", …" : ""}]`),
    el("div", { class: "actions" }, copyButton(() => JSON.stringify(vector), "Copy vector")));
}

function edit(drawer, record) {
  const { view, body } = drawer;
  const form = editForm(view, record, (saved) => {
    drawer.editing = null;
    draw(drawer, saved);
    drawer.title.focus();
  });
  drawer.editing = form;
  body.replaceChildren(idLine(record.id), form.element);
  form.focus();
}

async function remove(drawer, id) {
  const { view } = drawer;
  if (!await confirmed("Delete this record?", "Its text and vector will be gone. This cannot be undone.", "Delete")) return;
  try {
    await call("POST", `${view.path}/vectors/delete`, { ids: [id] });
    toast("The record is deleted");
    if (view.query.id === id) view.change({ id: null }, { replace: true }); // Back would lead to what is gone
    await view.again();
  } catch (error) {
    drawer.body.append(el("p", { class: "error", role: "alert" }, error.message));
  }
}
