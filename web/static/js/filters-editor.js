// Makes one part of a filter: a condition with any operator, alternatives to it, or all of that negated.

import { complain, el } from "./dom.js";
import { OPERATORS, kindOf, valueOf } from "./filters.js";

const KINDS = ["text", "number", "yes or no", "nothing"];
let made = 0; // ids of lists of suggestions

/** Whether the form can hold a part as it is; else it is edited as JSON. */
export const canEdit = ({ any }) => Boolean(any) && any.every(({ value }) => {
  const values = Array.isArray(value) ? value : [value], kinds = new Set(values.map(kindOf));
  return kinds.size <= 1 && values.every((one) => typeof one !== "string" || (!one.includes("\n") && !(Array.isArray(value) && one === "")))
    && (!Array.isArray(value) || !kinds.has("nothing") || value.length === 1);
});

/** A form for a part. `fields` are the facets to choose from; `done(part)` is called with what was made,
    `done(null)` when it is cancelled. Without a part it begins with `field`. */
export function conditionForm(fields, part, field, done) {
  const rows = el("div", { class: "conditions" });
  const not = el("input", { type: "checkbox", checked: part?.not });
  const names = el("datalist", { id: `fields-${++made}` }, fields.map((one) => el("option", { value: one.field })));
  const add = (condition) => {
    const row = conditionRow(fields, names.id, condition, () => { row.element.remove(); number(); });
    rows.append(row.element);
    all.set(row.element, row);
    number();
    return row;
  };
  const all = new Map();
  const shown = () => [...rows.children].map((element) => all.get(element));
  const number = () => shown().forEach((row, i, list) => row.place(i, list.length));
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const form = el("form", { class: "condition-form" }, names, rows,
    el("label", { class: "check" }, not, "Leave these records out instead (not)"), error,
    el("div", { class: "actions" }, el("button", { type: "submit", class: "small" }, part ? "Change" : "Add"),
      el("button", { type: "button", class: "quiet small", onclick: () => add({ field: "", op: "$eq", value: "" }).focus() }, "Or …"),
      el("button", { type: "button", class: "quiet small", onclick: () => done(null) }, "Cancel")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      complain(error, null);
      done({ not: not.checked, any: shown().map((row) => row.read()) });
    } catch (wrong) {
      complain(error, wrong);
    }
  });
  for (const condition of part?.any ?? [{ field: field ?? "", op: "$eq", value: undefined }]) add(condition);
  return { element: form, focus: () => shown()[0].focus() };
}

/** One condition: field, operator, kind and value. */
function conditionRow(fields, listId, condition, remove) {
  const name = el("input", { "aria-label": "Field", placeholder: "Field, such as author.name", list: listId, autocomplete: "off", spellcheck: "false", required: true, value: condition.field });
  const op = el("select", { "aria-label": "Operator" }, Object.entries(OPERATORS).map(([key, { title }]) => el("option", { value: key }, title)));
  const kind = el("select", { "aria-label": "Kind of value" });
  const value = el("div", { class: "value" });
  const or = el("span", { class: "or-word hint" }, "or");
  const away = el("button", { type: "button", class: "quiet small", "aria-label": "Remove this alternative", onclick: remove }, "×");
  const facet = () => fields.find((one) => one.field === name.value);
  let input;
  const draw = (text) => {
    const { takes } = OPERATORS[op.value], before = kind.value;
    const kinds = takes === "whether" ? ["yes or no"] : takes === "order" ? KINDS.slice(0, 2) : KINDS;
    kind.replaceChildren(...kinds.map((one) => el("option", {}, one)));
    kind.value = kinds.includes(before) ? before : kinds[0];
    kind.hidden = takes === "whether";
    input = inputOf(takes, kind.value, facet(), text);
    value.replaceChildren(...input.elements);
  };
  // A field's own kind is the first choice, until a person takes another.
  let chosen = condition.value !== undefined;
  const guess = () => { if (!chosen) kind.value = guessed(facet()) ?? kind.value; };
  op.addEventListener("change", () => draw(input.text()));
  kind.addEventListener("change", () => { chosen = true; draw(input.text()); });
  name.addEventListener("input", () => { // at each key: later, what one goes to next would be drawn anew
    if (!facet()) return;
    guess();
    draw(input.text());
  });
  op.value = condition.op;
  draw("");
  const one = Array.isArray(condition.value) ? condition.value[0] : condition.value;
  if (condition.value === undefined) guess(); else kind.value = kindOf(one ?? (condition.value === null ? null : ""));
  draw(Array.isArray(condition.value) ? condition.value.map(written).join("\n") : condition.value === undefined ? "" : written(condition.value));
  const element = el("div", { class: "condition" }, or, name, op, kind, value, away);
  return {
    element,
    focus: () => (name.value ? op : name).focus(),
    place: (at, count) => { or.hidden = at === 0; away.hidden = count === 1; },
    read: () => ({ field: name.value, op: op.value, value: input.value() }),
  };
}

const written = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** How a field's values are typed, by what most records hold there. */
function guessed(facet) {
  if (!facet) return null;
  const [most] = Object.entries(facet.kinds).filter(([kind]) => ["string", "number", "boolean"].includes(kind)).sort((a, b) => b[1] - a[1])[0] ?? [typeOf(facet.elements[0]?.value)];
  return { string: "text", number: "number", boolean: "yes or no" }[most] ?? null;
}

const typeOf = (value) => typeof value;

/** What a value is typed into: `{elements, text(), value()}`. */
function inputOf(takes, kind, facet, text) {
  if (kind === "nothing") return { elements: [], text: () => text, value: () => (takes === "values" ? [null] : null) };
  if (takes === "values") {
    const area = el("textarea", { rows: "3", "aria-label": "Values, one a line", placeholder: "One value a line", spellcheck: "false" });
    area.value = text;
    const lines = () => area.value.split("\n").filter((line) => line !== "");
    return { elements: [area], text: () => area.value, value: () => lines().map((line) => valueOf(line, kind)) };
  }
  if (kind === "yes or no") {
    const choice = el("select", { "aria-label": "Value" }, ["true", "false"].map((one) => el("option", { value: one }, takes === "whether" ? { true: "yes", false: "no" }[one] : one)));
    choice.value = text === "false" ? "false" : "true";
    return { elements: [choice], text: () => choice.value, value: () => choice.value === "true" };
  }
  const id = `values-${++made}`;
  const known = [...(facet?.values ?? []), ...(facet?.elements ?? [])].filter((one) => kindOf(one.value) === kind);
  const field = el("input", { "aria-label": "Value", list: id, autocomplete: "off", spellcheck: "false", inputmode: kind === "number" ? "decimal" : null, value: text.split("\n")[0] });
  return { elements: [field, el("datalist", { id }, known.map((one) => el("option", { value: written(one.value) })))], text: () => field.value, value: () => valueOf(field.value, kind) };
}
