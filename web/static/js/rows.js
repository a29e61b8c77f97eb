// Reads a person's file: CSV, JSONL or a text a line becomes {line, text, id, metadata} rows.
// A file is read whole and checked whole, so nothing is stored of one that is refused.

import { numbers, OTHERS, table } from "./csv.js";
import { isDigits, kept, parse, whole, withoutNaN } from "./json.js";
import { blank, decoded, refusal } from "./lines.js";

// What a text's column may be called; the first of these that a file has. As in tools/rows.py.
const TEXT_NAMES = ["text", "content", "sentence", "document", "body", "abstract", "question"];
const KINDS = { __proto__: null, csv: fromCsv, jsonl: fromJsonl, ndjson: fromJsonl, txt: fromTxt };
// What the service takes of one text, its id and its metadata (store/validation.py, documents/).
const MOST = { idChars: 512, textBytes: 1 << 20, metadataBytes: 64 << 10, depth: 32, keys: 1000, integer: 2n ** 63n - 1n };
const UNSAFE = /(?:^|[/\\])\.\.?(?:[/\\]|$)|[\x00-\x1f\x7f-\x9f]/;

/** The rows of a file, by the ending of its name; `id` is null where it has none. Throws an Error that
    says which line cannot be read, and what to do. */
export function rowsOf(name, bytes) {
  try {
    const kind = KINDS[/\.(\w+)$/.exec(name)?.[1].toLowerCase()];
    if (!kind) throw new Error("its name must end in .csv, .jsonl or .txt; embed_file.py also reads .parquet");
    const rows = kind(decoded(bytes));
    if (!rows.length) throw new Error("there is no text in it");
    rows.forEach(check);
    return rows;
  } catch (error) {
    throw new Error(`Nothing of ${name} is stored: ${error.message}.`);
  }
}

/** The rows without those whose id comes again later in the file: the last one counts. */
export function lastOfEach(rows) {
  const last = new Map(rows.map((row, i) => [row.id, i]));
  return rows.filter((row, i) => row.id === null || last.get(row.id) === i);
}

/** The lines that are not blank, as `[line, text]`. */
const linesOf = (content) => content.split(/\r\n|\n|\r/).map((text, i) => [i + 1, text]).filter(([, text]) => !blank(text));

function fromTxt(content) {
  return linesOf(content).map(([line, text]) => ({ line, text, id: null, metadata: {} }));
}

function fromCsv(content) {
  const { names, rows } = table(content);
  if (!names.length) return [];
  const text = TEXT_NAMES.find((name) => names.includes(name));
  if (!text) throw noText(names, names.join(","));
  const isNumber = numbers({ names, rows });
  const [textAt, idAt] = [names.indexOf(text), names.indexOf("id")];
  const value = (cell, j) => (isNumber[j] && cell !== "" ? Number(cell) || 0 : cell); // || 0: no -0
  const extra = names.map((name, j) => [name, j]).filter(([name]) => name && name !== text && name !== "id");
  return rows.map(({ line, cells }) => ({
    line, text: cells[textAt], id: idOf(cells[idAt], line), wanted: text,
    metadata: Object.fromEntries(extra.filter(([, j]) => !isNumber[j] || cells[j] !== "").map(([name, j]) => [name, value(cells[j], j)])),
  }));
}

function noText(names, header) {
  const other = Object.keys(OTHERS).find((mark) => header.split(mark).length > names.length);
  if (other) return new Error(`it has ${OTHERS[other]} between its cells; save the file with commas`);
  const there = names.slice(0, 8).map((name) => (name.length > 40 ? `${name.slice(0, 40)}…` : name)).join(", ");
  return new Error(`none of its columns (${there}${names.length > 8 ? ", …" : ""}) is ${TEXT_NAMES.slice(0, -1).join(", ")} or ${TEXT_NAMES.at(-1)}; name the column of the texts "text"`);
}

function fromJsonl(content) {
  let named = null;
  return linesOf(content).map(([line, json]) => {
    const value = valueOf(line, json);
    if (typeof value === "string") return { line, text: value, id: null, metadata: {} };
    named ??= TEXT_NAMES.find((name) => typeof value[name] === "string");
    if (!named) throw noText(Object.keys(value), "");
    const { id, [named]: text, ...rest } = value;
    return { line, text, id: idOf(id, line), metadata: flat(rest), wanted: named };
  });
}

function valueOf(line, json) {
  let value;
  try {
    value = parse(/NaN|Infinity/.test(json) ? withoutNaN(json) : json);
  } catch (error) {
    if (error instanceof RangeError) throw refusal(line, `cannot be read: ${error.message}`);
    throw refusal(line, `is not JSON; write one object a line${json.trim() === "[" ? ", without a list around them" : ""}`);
  }
  if (typeof value === "string" || isObject(value)) return value;
  throw refusal(line, "is neither an object nor a string; write one object a line");
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value) && kept(value) === undefined;

/** Fields of an object in `metadata` count as the row's own. */
function flat({ metadata, ...rest }) {
  if (metadata === undefined) return rest;
  return isObject(metadata) ? { ...rest, ...metadata } : { ...rest, metadata };
}

function idOf(id, line) {
  if (id === undefined || id === null || (typeof id === "string" && blank(id))) return null;
  if (typeof id === "string") return id;
  if (isObject(id) && Object.keys(id).join() === "$oid") return idOf(id.$oid, line); // as MongoDB exports it
  if (kept(id)) return String(whole(id));
  if (typeof id === "number" && Number.isFinite(id)) return Number.isInteger(id) ? String(BigInt(id)) : fraction(id);
  throw refusal(line, "has an id that is neither a string nor a number; write it in quotes");
}

/** A fraction as Python writes it, so that both programs make the same id of it: 1e-05, not 0.00001. */
function fraction(number) {
  return Math.abs(number) < 1e-4 ? number.toExponential().replace(/e-(\d)$/, "e-0$1") : String(number);
}

/** Refuse a row that the service would refuse. */
function check({ line, text, id, metadata, wanted = "text" }) {
  if (typeof text !== "string" || blank(text)) throw refusal(line, `has no text in "${wanted}"; fill it, or take the line out`);
  checkText(text, line, "text");
  if (isOver(text, MOST.textBytes)) throw refusal(line, `has a text of more than ${MOST.textBytes} bytes; split it`);
  if (id !== null) {
    checkText(id, line, "id");
    if (UNSAFE.test(id)) throw refusal(line, 'has an id with a control character, or with "." or ".." between slashes; leave them out');
    if ([...id].length > MOST.idChars) throw refusal(line, `has an id of more than ${MOST.idChars} characters; shorten it`);
  }
  checkValue(metadata, line, 1);
  if (isOver(JSON.stringify(metadata), MOST.metadataBytes)) {
    throw refusal(line, `has more than ${MOST.metadataBytes} bytes beside its text; take columns out`);
  }
}

const isOver = (text, bytes) => 3 * text.length > bytes && new TextEncoder().encode(text).length > bytes;

function checkText(text, line, what) {
  if (text.includes("\0")) throw refusal(line, `holds a NUL in its ${what}; take it out`);
  if (/\p{Surrogate}/u.test(text)) throw refusal(line, `holds half a character (\\ud800 to \\udfff) in its ${what}; write it whole`);
}

function checkValue(value, line, depth) {
  if (typeof value === "string") return checkText(value, line, "metadata");
  if (value === null || typeof value !== "object") return;
  if (kept(value)) {
    const number = whole(value);
    if (isDigits(kept(value)) && (number > MOST.integer || number < -MOST.integer)) throw refusal(line, "holds a whole number beyond 64 bits; write it in quotes");
    return;
  }
  if (depth > MOST.depth) throw refusal(line, `is nested deeper than ${MOST.depth} levels; flatten it`);
  if (!Array.isArray(value) && Object.keys(value).length > MOST.keys) throw refusal(line, `has an object of more than ${MOST.keys} fields; take some out`);
  for (const [key, inner] of Object.entries(value)) {
    checkText(key, line, "metadata");
    if (!Array.isArray(value) && !/^[^.$][^.]{0,511}$/su.test(key)) throw refusal(line, `names a field "${key.slice(0, 100)}", which no filter could; take out its dots, and a $ at its start; a name is not empty, and has at most 512 characters`);
    checkValue(inner, line, depth + 1);
  }
}
