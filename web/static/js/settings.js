// Settings: what each is, changing it, taking it back, and who changed what when.

import { call } from "./api.js";
import { $, complain, confirmed, correct, el, toast } from "./dom.js";

// Title, place on the page, and what belongs there: the first that takes a setting has it.
const GROUPS = [
  ["Model", 0, (key) => /^(model_name|device|dtype|backend|normalize|max_batch|max_seq)/.test(key)],
  ["Limits per minute, by role", 2, (key) => /_per_minute_/.test(key)],
  ["At the next start", 3, (key, row) => row.changes === "at restart"],
  ["Requests", 1, () => true],
];
const groupOf = (row) => GROUPS.find(([, , mine]) => mine(row.key, row));

/** Draw the settings and their history. */
export async function show() {
  const { data } = await call("GET", "/settings");
  const { history } = (await call("GET", "/settings/history?limit=20")).data;
  const rows = Object.values(data.settings);
  $("admin-settings").replaceChildren(
    el("div", { class: "card" }, el("h2", {}, "Settings"),
      data.persistent ? null : el("p", { class: "note" }, "Changes last until the service restarts: no database is configured."),
      GROUPS.toSorted((a, b) => a[1] - b[1]).flatMap((group) => [el("h3", {}, group[0]),
        el("div", { class: "settings" }, rows.filter((row) => groupOf(row) === group).map(setting))])),
    el("div", { class: "card" }, el("h2", {}, "History"),
      history.length ? el("ol", { class: "history" }, history.map((change, i) => past(change, i, history))) : el("p", { class: "empty" }, "No setting was changed yet.")));
}

function setting(row) {
  const id = `setting-${row.key}`, control = controlOf(row, id);
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const save = el("button", { type: "submit", class: "small", hidden: true }, "Save");
  const mine = row.source === "database" || row.source === "memory";
  const revert = mine ? el("button", { type: "button", class: "quiet small", onclick: () => act(error, () => call("DELETE", `/settings/${row.key}`), `${row.key} is back to what it was`, `#${id}`) }, "Revert") : null;
  const form = el("form", { class: "setting", "data-key": row.key, novalidate: true },
    el("div", {}, el("div", { class: "name" }, control.label, el("span", { class: `source ${mine ? "set" : ""}` }, row.source)),
      el("p", { class: "hint" }, row.description)),
    el("div", {}, el("div", { class: "actions" }, control.node, row.unit ? el("span", { class: "hint unit" }, row.unit) : null, save, revert), error));
  form.addEventListener("input", () => { save.hidden = false; });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (correct(form)) act(error, () => call("POST", "/settings", { key: row.key, value: control.value() }), `${row.key} is changed`, `#${id}`);
  });
  return form;
}

/** What a person sets a value with, as its type and its limits say: `{node, label, value()}`. */
function controlOf(row, id) {
  const label = el("label", { for: id }, row.key), unset = row.default === null; // then nothing is a value too
  if (row.type === "bool") {
    const node = el("input", { id, type: "checkbox", checked: row.value === true });
    return { node, label, value: () => node.checked };
  }
  if (row.type === "list" && row.choices) return boxes(row, id);
  if (row.choices) {
    const node = el("select", { id }, row.choices.map((choice) => el("option", { value: choice, selected: choice === row.value }, choice)));
    return { node, label, value: () => node.value };
  }
  const isNumber = row.type === "int" || row.type === "float", list = row.examples ? `${id}-examples` : null;
  const limits = isNumber ? { type: "number", step: row.type === "int" ? 1 : "any", min: row.minimum ?? row.above, max: row.maximum } : {};
  const input = el("input", { id, value: shown(row.value), spellcheck: "false", autocomplete: "off", list, placeholder: unset ? "unset" : null, required: !unset && row.type !== "list", ...limits });
  const node = list ? el("div", { class: "choices" }, input, el("datalist", { id: list }, row.examples.map((value) => el("option", { value })))) : input;
  // A number is sent as it was written: the service reads it more exactly than JavaScript.
  const read = (text) => (row.type === "list" ? text.split(",").map((part) => part.trim()).filter(Boolean) : text === "" && unset ? null : text);
  return { node, label, value: () => read(input.value.trim()) };
}

/** Boxes to tick, for a list of some of the choices. */
function boxes(row, id) {
  const label = el("span", { class: "key", id: `${id}-label` }, row.key);
  const node = el("div", { class: "choices", role: "group", id, tabindex: "-1", "aria-labelledby": label.id }, row.choices.map((choice) =>
    el("label", {}, el("input", { type: "checkbox", value: choice, checked: row.value.includes(choice) }), choice)));
  return { node, label, value: () => Array.from(node.querySelectorAll(":checked"), (box) => box.value) };
}

const shown = (value) => (value === null ? "" : typeof value === "string" ? value : Array.isArray(value) ? value.join(", ") : JSON.stringify(value));

/** Do `work`, say `done`, and draw all anew; the keyboard goes on at the first of `next`. */
async function act(place, work, done, next) {
  try {
    complain(place, null);
    await work();
    toast(done);
    await show();
    document.querySelector(next)?.focus();
  } catch (error) {
    complain(place, error);
  }
}

function past(change, i, history) {
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const back = async () => {
    const sure = await confirmed("Go back?", `Every setting returns to what it was before change ${change.version}.`, "Go back");
    if (!sure) return;
    await act(error, () => call("POST", "/settings/rollback", { version: history[i + 1]?.version ?? 0 }),
      `Back to before change ${change.version}`, ".history button");
  };
  return el("li", {},
    el("div", { class: "heading" },
      el("p", {}, el("b", {}, `${change.version}. ${change.action}`), ` by ${change.who}, `, el("time", { datetime: change.at }, new Date(change.at).toLocaleString())),
      el("button", { type: "button", class: "quiet small", onclick: back }, "Go back to before")),
    el("dl", { class: "meta" }, Object.entries(change.changes).map(([key, { old, new: now }]) =>
      el("div", {}, el("dt", {}, key), el("dd", {}, `${old === null ? "unset" : shown(old)} → ${now === null ? "unset" : shown(now)}`)))),
    error);
}
