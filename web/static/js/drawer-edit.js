// Changes a record: its text, which is then embedded anew, and its metadata.

import { call, patiently } from "./api.js";
import { during, el, toast } from "./dom.js";
import { parse } from "./json.js";

/** A form for a record: `{element, focus(), changed()}`. `done(record)` is called with what is stored
    afterwards, also where nothing was changed. */
export function editForm(view, record, done) {
  const text = el("textarea", { id: "edit-text", rows: "8" }), metadata = el("textarea", { id: "edit-metadata", rows: "8", class: "mono", spellcheck: "false" });
  const before = { text: record.text ?? "", metadata: JSON.stringify(record.metadata ?? {}, null, 2) };
  text.value = before.text;
  metadata.value = before.metadata;
  // A field of a page has only "\n" between its lines: what a text has stays while it is not changed.
  const newText = () => text.value !== before.text.replace(/\r\n?/g, "\n");
  const form = el("form", { class: "edit" },
    el("label", { for: "edit-text" }, "Text"), text,
    el("p", { class: "hint" }, "If you change the text, it is embedded again. Without a text the record keeps its vector."),
    el("label", { for: "edit-metadata" }, "Metadata, as a JSON object"), metadata,
    el("p", { class: "error", role: "alert", hidden: true }),
    el("div", { class: "actions" }, el("button", { type: "submit", class: "small" }, "Save"),
      el("button", { type: "button", class: "quiet small", onclick: () => done(record) }, "Cancel")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async (tell) => {
      const item = { id: record.id, metadata: objectOf(metadata.value), mode: "update" };
      const given = newText() ? text.value || undefined : record.text, embedded = newText() && given !== undefined;
      if (given !== undefined) item.text = given;
      if (!embedded) item.vector = record.vector;
      await patiently([503], () => call("POST", `${view.path}/vectors`, item, { signal: view.signal }), tell, view.signal);
      const { data } = await call("POST", `${view.path}/vectors/get`, { ids: [record.id] }, { signal: view.signal });
      toast(embedded ? "Saved, with a new vector" : "Saved");
      done(data.vectors[0] ?? record);
      await view.again();
    });
  });
  return { element: form, focus: () => text.focus(), changed: () => newText() || metadata.value !== before.metadata };
}

/** Metadata as a person typed it. Throws an Error that says what is wrong. */
function objectOf(typed) {
  let value;
  try {
    value = parse(typed.trim() || "{}");
  } catch (error) {
    throw new Error(`The metadata is not JSON: ${error.message}.`);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value) || JSON.isRawJSON?.(value)) throw new Error('Metadata is an object, such as {"lang": "en"}.');
  return value;
}
