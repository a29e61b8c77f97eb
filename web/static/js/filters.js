// A filter as the filter bar shows it: parts that all hold. A part is one condition, several of
// which one holds, or the negation of that. Any filter of the API can be read and is written back as
// it was: what has another form is a part of its own, which is edited as JSON.

import { parse } from "./json.js";

/** Every operator on a field: what it is called in a list, its sign in a line, and what it takes. */
export const OPERATORS = {
  $eq: { title: "is", sign: "=", takes: "value" },
  $ne: { title: "is not", sign: "≠", takes: "value" },
  $gt: { title: "is above", sign: ">", takes: "order" },
  $gte: { title: "is at least", sign: "≥", takes: "order" },
  $lt: { title: "is below", sign: "<", takes: "order" },
  $lte: { title: "is at most", sign: "≤", takes: "order" },
  $in: { title: "is one of", sign: "is one of", takes: "values" },
  $nin: { title: "is none of", sign: "is none of", takes: "values" },
  $contains: { title: "contains", sign: "contains", takes: "value" },
  $exists: { title: "exists", sign: "exists", takes: "whether" },
};
const NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value) && !isLarge(value);
const isLarge = (value) => Boolean(JSON.isRawJSON?.(value)); // a number that json.js keeps as it was written

/** Read a filter as it stands in the address. Throws an Error that says what is wrong. */
export function read(text) {
  if (!text) return {};
  let filter;
  try {
    filter = parse(text);
  } catch (error) {
    throw new Error(`The filter is not JSON: ${error.message}.`);
  }
  if (!isObject(filter)) throw new Error('A filter is an object, such as {"year": {"$gte": 2020}}.');
  return filter;
}

/** A filter as the address has it: "" where nothing is filtered. */
export const textOf = (parts) => (parts.length ? JSON.stringify(filterOf(parts)) : "");

/** The parts of a filter: `{not, any: [{field, op, value}]}`, or `{raw}` for another form. */
export function partsOf(filter) {
  return Object.entries(filter).flatMap(([key, value]) => {
    if (key === "$and" && Array.isArray(value) && value.length && value.every(isObject)) return value.flatMap(partsOf);
    if (key === "$or" && Array.isArray(value) && value.length && value.every(isObject)) {
      const any = value.map(single);
      if (any.every(Boolean)) return [{ not: false, any }];
    }
    if (key === "$not" && isObject(value)) {
      const inner = partsOf(value);
      if (inner.length === 1 && inner[0].any && !inner[0].not) return [{ not: true, any: inner[0].any }];
    }
    const tests = isObject(value) ? Object.entries(value) : [["$eq", value]];
    if (key.startsWith("$") || !tests.length || tests.some(([op]) => !OPERATORS[op])) return [{ raw: alone(key, value) }];
    return tests.map(([op, operand]) => ({ not: false, any: [{ field: key, op, value: operand }] }));
  });
}

/** The one condition that a filter is, or null. */
function single(filter) {
  const parts = partsOf(filter);
  return parts.length === 1 && parts[0].any?.length === 1 && !parts[0].not ? parts[0].any[0] : null;
}

// Fields may be called as JavaScript's own properties are: objects here have no prototype.
const alone = (key, value) => Object.assign(Object.create(null), { [key]: value });

/** The filter of some parts, as short as it goes. */
export function filterOf(parts) {
  const filter = Object.create(null), rest = [];
  for (const part of parts) {
    const one = written(part), [key] = Object.keys(one);
    if (!(key in filter)) filter[key] = one[key];
    else if (isObject(filter[key]) && isObject(one[key]) && !key.startsWith("$") && !Object.keys(one[key]).some((op) => op in filter[key])) Object.assign(filter[key], one[key]);
    else rest.push(one);
  }
  for (const [key, value] of Object.entries(filter)) filter[key] = short(key, value);
  const others = rest.map((one) => Object.fromEntries(Object.entries(one).map(([key, value]) => [key, short(key, value)])));
  return others.length ? { $and: [filter, ...others] } : filter;
}

const short = (key, value) => (!key.startsWith("$") && isObject(value) && Object.keys(value).join() === "$eq" ? value.$eq : value);

function written({ raw, not, any }) {
  if (raw) return Object.assign(Object.create(null), raw);
  const all = any.map(({ field, op, value }) => alone(field, { [op]: value }));
  const inner = all.length === 1 ? all[0] : { $or: all.map(shortened) };
  return not ? { $not: all.length === 1 ? shortened(inner) : inner } : inner;
}

const shortened = (one) => { const [key] = Object.keys(one); return alone(key, short(key, one[key])); };

/** A part in words: `year ≥ 2020`, `not (a = 1 or b exists)`. */
export function told({ raw, not, any }) {
  if (raw) return JSON.stringify(raw);
  const line = any.map(({ field, op, value }) => {
    if (op === "$exists") return value ? `${field} exists` : `${field} is missing`;
    return `${field} ${OPERATORS[op].sign} ${Array.isArray(value) ? value.map(shownValue).join(", ") : shownValue(value)}`;
  }).join(" or ");
  return not ? `not (${line})` : line;
}

/** A value as a person reads it: strings as they are where nothing else could be meant, else in quotes. */
export const shownValue = (value) => (typeof value === "string" && value !== "" && !/^(?:true|false|null|-?\d.*|.*,.*|\s.*|.*\s)$/s.test(value) ? value : JSON.stringify(value));

/** What a person typed, as a value of a kind: "text", "number", "yes or no" or "nothing". Throws an Error. */
export function valueOf(text, kind) {
  if (kind === "nothing") return null;
  if (kind === "text") return text;
  const typed = text.trim();
  if (kind === "number") {
    if (!NUMBER.test(typed)) throw new Error(`“${typed}” is not a number.`);
    return parse(typed);
  }
  if (!/^(true|false|yes|no)$/i.test(typed)) throw new Error(`“${typed}” is neither true nor false.`);
  return /^(true|yes)$/i.test(typed);
}

/** The kind by which a value is typed. */
export const kindOf = (value) => (value === null ? "nothing" : typeof value === "boolean" ? "yes or no" : typeof value === "string" ? "text" : "number");

/** Whether two values of a filter are the same one. */
export const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** The parts without the plain ones on a field whose operator is one of `ops`. */
export const without = (parts, field, ops) => parts.filter((part) => !(plain(part, field) && ops.includes(part.any[0].op)));

/** The condition of a plain part on a field, or null. */
export const plain = ({ not, any }, field) => (any && !not && any.length === 1 && any[0].field === field ? any[0] : null);
