// Settings: what each is, changing it, taking it back, and who changed what when.

import { call } from "./api.js";
import { plainNumber } from "./csv.js";
import { $, complain, confirmed, el, toast } from "./dom.js";

// Title, place on the page, and what belongs there: the first that takes a setting has it.
const GROUPS = [
  ["Model", 0, (key) => /^(model_name|device|dtype|backend|normalize|max_batch|max_seq)/.test(key)],
  ["Most a minute, by role", 2, (key) => /_per_minute_/.test(key)],
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
      history.length ? el("ol", { class: "history" }, history.map((change, i) => past(change, i, history))) : el("p", { class: "empty" }, "Nothing was changed yet.")));
}

function setting(row) {
  const id = `setting-${row.key}`;
  const boolean = typeof row.default === "boolean";
  const input = boolean
    ? el("input", { id, type: "checkbox", checked: row.value === true })
    : el("input", { id, value: shown(row.value), spellcheck: "false", autocomplete: "off" });
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const save = el("button", { type: "submit", class: "small", hidden: true }, "Save");
  const mine = row.source === "database" || row.source === "memory";
  const revert = mine ? el("button", { type: "button", class: "quiet small", onclick: () => act(error, () => call("DELETE", `/settings/${row.key}`), `${row.key} is back to what it was`, `#${id}`) }, "Revert") : null;
  const form = el("form", { class: "setting", "data-key": row.key },
    el("div", {}, el("div", { class: "name" }, el("label", { for: id }, row.key), el("span", { class: `source ${mine ? "set" : ""}` }, row.source)),
      el("p", { class: "hint" }, row.description)),
    el("div", {}, el("div", { class: "actions" }, input, save, revert), error));
  input.addEventListener("input", () => { save.hidden = false; });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    act(error, () => call("POST", "/settings", { key: row.key, value: boolean ? input.checked : read(input.value, row) }), `${row.key} is changed`, `#${id}`);
  });
  return form;
}

const shown = (value) => (value === null ? "" : typeof value === "string" ? value : Array.isArray(value) ? value.join(", ") : JSON.stringify(value));

function read(text, row) {
  const clean = text.trim();
  if (Array.isArray(row.value) || Array.isArray(row.default)) return clean.split(",").map((part) => part.trim()).filter(Boolean);
  if (typeof row.value === "number" || typeof row.default === "number") return plainNumber(clean) ? Number(clean) : clean; // the service judges all else
  return clean === "" && row.default === null ? null : clean;
}

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
