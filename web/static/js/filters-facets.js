// What a collection's metadata holds: asked once for all parts, and one field with its values and ranges to press.

import { call, patiently } from "./api.js";
import { el, plural, whole } from "./dom.js";
import { filterOf, plain, same, shownValue, valueOf, without } from "./filters.js";

const FIELDS = 200, VALUES = 30;
const FEW = 12; // numbers of so few different values are listed one by one
const CHOSEN = ["$eq", "$in"], BOUNDS = ["$gt", "$gte", "$lt", "$lte"];
const known = new WeakMap(); // view: what `fieldsOf` returns

const ask = async (view, body) => (await patiently([503], () => call("POST", `${view.path}/facets`, body, { signal: view.signal }), () => {}, view.signal)).data;

/** The fields of a collection as `POST .../facets` tells them, those that are chosen by most easily first. They are
    read anew when the records change; "facets" is dispatched on the view whenever they are there. */
export function fieldsOf(view) {
  if (!known.has(view)) {
    known.set(view, []);
    const load = async () => {
      if (!view.info.count) return;
      try {
        const { fields } = await ask(view, { limit: FIELDS, values: VALUES });
        known.set(view, fields.sort((one, other) => rank(one) - rank(other)));
        view.dispatchEvent(new Event("facets"));
      } catch { /* all else can be used, and a condition may name any field */ }
    };
    view.addEventListener("info", load, { signal: view.signal });
    load();
  }
  return known.get(view);
}

/** How soon a field is offered: a few values first, then numbers and lists, then what all have alike or each its own. */
function rank({ distinct, values, elements, ranges }) {
  if (values.length > 1 && distinct !== null && distinct <= VALUES && !ranges.length) return 0;
  return ranges.length > 1 || elements.length ? 1 : distinct === 1 ? 3 : 2;
}

/** One field: buttons for its values and ranges. A press calls `change(update)`: `update(parts)` gives the new parts
    of the parts that are set then, which others may have changed since this was drawn. */
export async function fieldPanel(view, field, parts, change) {
  const others = without(parts, field, [...CHOSEN, ...BOUNDS]);
  const data = await ask(view, { fields: [field], filter: filterOf(others), values: VALUES });
  const facet = data.fields[0], numbers = facet.ranges.length > 0;
  const listed = facet.values.filter((one) => !numbers || facet.distinct <= FEW || typeof one.value !== "number");
  return el("div", {},
    el("div", { class: "heading" }, el("h3", {}, field), el("p", { class: "hint" }, about(data, facet))),
    listed.length ? group("Values", listed.map((one) => value(field, one, parts, change))) : null,
    facet.distinct === null && listed.length === 0 && !numbers && facet.kinds.string ? el("p", { class: "hint" }, "Too many different values to list. Add a condition for one.") : null,
    listed.length === VALUES ? el("p", { class: "hint" }, `The ${VALUES} most frequent; a condition reaches the others.`) : null,
    facet.elements.length ? group("In its lists", facet.elements.map((one) => toggle(shownValue(one.value), one.count, { field, op: "$contains", value: one.value }, parts, change))) : null,
    numbers && facet.distinct !== 1 ? group("Ranges", facet.ranges.map((one, i) => range(field, one, i === facet.ranges.length - 1, parts, change))) : null,
    numbers ? bounds(field, facet, parts, change) : null,
    facet.missing ? group("Without it", [toggle("missing", facet.missing, { field, op: "$exists", value: false }, parts, change)]) : null);
}

function about({ looked_at: looked, exact, count }, { kinds, distinct }) {
  const there = Object.entries(kinds).map(([kind, records]) => `${kind === "string" ? "text" : kind} in ${whole(records)}`).join(", ") || "in no record";
  const different = distinct === null ? "" : ` · ${plural(distinct, "different value")}`;
  return `${there}${different}${exact ? "" : ` · counted in ${whole(looked)} of ${whole(count)} records, drawn at random`}`;
}

const group = (title, buttons) => el("div", { class: "facet", role: "group", "aria-label": title }, el("span", { class: "hint" }, title), buttons);

function press(text, records, pressed, act) {
  const button = el("button", { type: "button", class: "choice", "aria-pressed": String(pressed), "data-key": text },
    el("span", {}, text), " ", el("span", { class: "count" }, whole(records)));
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(!pressed)); // at once: the new counts take a moment
    act();
  });
  return button;
}

/** A button that adds a condition, or takes it away where it is set. */
function toggle(text, records, condition, parts, change) {
  const mine = (part) => { const each = plain(part, condition.field); return each?.op === condition.op && same(each.value, condition.value); };
  return press(text, records, parts.some(mine), () => change((now) => (now.some(mine) ? now.filter((part) => !mine(part)) : [...now, { not: false, any: [condition] }])));
}

/** A value; pressing several finds records with any of them. */
function value(field, { value: one, count }, parts, change) {
  const valuesOf = (some) => conditions(field, some, CHOSEN).flatMap(({ op, value: each }) => (op === "$in" ? each : [each]));
  const isSet = (some) => valuesOf(some).some((each) => same(each, one));
  return press(shownValue(one), count, isSet(parts), () => change((now) => {
    const next = isSet(now) ? valuesOf(now).filter((each) => !same(each, one)) : [...valuesOf(now), one];
    const condition = next.length === 1 ? { field, op: "$eq", value: next[0] } : { field, op: "$in", value: next };
    return [...without(now, field, CHOSEN), ...(next.length ? [{ not: false, any: [condition] }] : [])];
  }));
}

/** The plain conditions on a field with one of these operators. */
const conditions = (field, parts, ops) => parts.map((part) => plain(part, field)).filter((each) => each && ops.includes(each.op));

function range(field, { from, to, count }, last, parts, change) {
  const set = conditions(field, parts, BOUNDS), up = last ? "$lte" : "$lt";
  const pressed = set.length === 2 && set.some(({ op, value: each }) => op === "$gte" && same(each, from)) && set.some(({ op, value: each }) => op === up && same(each, to));
  const text = same(from, to) ? shown(from) : `${shown(from)} – ${shown(to)}`;
  const button = press(text, count, pressed, () => change((now) => [...without(now, field, BOUNDS),
    ...(pressed ? [] : [["$gte", from], [up, to]].map(([op, each]) => ({ not: false, any: [{ field, op, value: each }] })))]));
  button.title = `from ${shown(from)} ${last ? "to" : "to below"} ${shown(to)}`;
  return button;
}

const shown = (number) => (typeof number === "number" && !Number.isInteger(number) ? String(Number(number.toPrecision(4))) : JSON.stringify(number));

const exactly = (typed) => { try { return valueOf(typed, "number"); } catch { return Number(typed); } };
const boundOf = (set, ops) => set.find(({ op, value: each }) => ops.includes(op) && typeof each === "number");

/** Two fields for bounds of one's own. */
function bounds(field, { ranges }, parts, change) {
  const set = conditions(field, parts, BOUNDS);
  const input = (label, ops, placeholder) => {
    const there = boundOf(set, ops);
    return el("input", { type: "number", step: "any", "aria-label": label, placeholder, value: there ? String(there.value) : null, "data-key": label });
  };
  const least = input(`${field} from`, ["$gte", "$gt"], shown(ranges[0].from)), most = input(`${field} to`, ["$lte", "$lt"], shown(ranges.at(-1).to));
  const form = el("form", { class: "bounds" }, least, el("span", {}, "to"), most, el("button", { type: "submit", class: "quiet small" }, "Set range"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = [[["$gte", "$gt"], least], [["$lte", "$lt"], most]].filter(([, each]) => each.value !== "");
    change((now) => [...without(now, field, BOUNDS), ...wanted.map(([ops, { value: typed }]) => {
      const there = boundOf(set, ops); // a bound that was not touched stays as it is, "<" too
      return { not: false, any: [there && String(there.value) === typed ? there : { field, op: ops[0], value: exactly(typed) }] };
    })]);
  });
  return form;
}
