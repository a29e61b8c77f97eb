// The table of the records that were chosen on a map, by a lasso or from the legend.

import { call } from "./api.js";
import { copyButton, el, plural, toast, whole } from "./dom.js";

const PAGE = 50, COLUMNS = 4, READ = 500; // rows shown at once, fields of them, records read at once

/** A table of records by their ids. `open(id)` shows one, `close()` lets all go. */
export function chosenTable(view, ids, title, open, close) {
  const body = el("tbody"), head = el("tr"), more = el("button", { type: "button", class: "quiet small" }, "Show more");
  const error = el("p", { class: "error", role: "alert", hidden: true });
  let shown = 0, fields = null;
  const show = async () => {
    more.disabled = true;
    try {
      const records = await read(view, ids.slice(shown, shown + PAGE));
      fields ??= fieldsOf(records);
      if (!head.childElementCount) head.append(...["Text", ...fields].map((name) => el("th", { scope: "col" }, name)));
      body.append(...records.map((one) => el("tr", {},
        el("td", {}, el("button", { type: "button", class: "link", onclick: () => open(one.id) }, one.text ?? one.id)),
        fields.map((name) => el("td", {}, cell(one.metadata?.[name]))))));
      shown += PAGE;
      more.hidden = shown >= ids.length;
      more.textContent = `Show more (${whole(Math.max(0, ids.length - shown))})`;
      error.hidden = true;
    } catch (problem) {
      if (problem.name === "AbortError") return;
      error.hidden = false;
      error.textContent = problem.message;
    } finally {
      more.disabled = false;
    }
  };
  more.addEventListener("click", show);
  show();
  return el("section", { class: "chosen", "aria-label": "Chosen records" },
    el("div", { class: "heading" }, el("h3", {}, title, " ", el("span", { class: "count" }, plural(ids.length, "text"))),
      el("div", { class: "actions" }, copyButton(() => ids.join("\n"), "Copy ids"),
        el("button", { type: "button", class: "quiet small", onclick: (event) => exported(view, ids, event.target) }, "Export JSONL"),
        el("button", { type: "button", class: "quiet small", onclick: close }, "Clear"))),
    el("div", { class: "rows", tabindex: "0", role: "group", "aria-label": "Records" }, el("table", {}, el("thead", {}, head), body)), more, error);
}

async function read(view, ids) {
  const { data } = await call("POST", `${view.path}/vectors/get`, { ids, include: ["text", "metadata"] }, { signal: view.signal });
  return data.vectors;
}

const fieldsOf = (records) => [...new Set(records.flatMap((one) => Object.keys(one.metadata ?? {})))].slice(0, COLUMNS);

const cell = (value) => (value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value));

/** Save the records as a file, one to a line. */
async function exported(view, ids, button) {
  button.disabled = true;
  try {
    const lines = [];
    for (let at = 0; at < ids.length; at += READ) {
      for (const { id, text, metadata } of await read(view, ids.slice(at, at + READ))) lines.push(JSON.stringify({ id, text, metadata }), "\n");
    }
    const url = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
    el("a", { href: url, download: `${view.info.name}.jsonl` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    if (error.name !== "AbortError") toast(error.message);
  } finally {
    button.disabled = false;
  }
}
