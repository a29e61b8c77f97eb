// Reads CSV strictly (RFC 4180): commas, quotes that close, as many cells in a row as the header has
// columns. `embed_file.py` reads the same files in the same way (tools/rows.py), and a test holds that.

import { plural } from "./dom.js";
import { blank, lineEnds, refusal, trimmed } from "./lines.js";

/** What parts columns in files that are no comma-separated values. */
export const OTHERS = { ";": "semicolons", "\t": "tabs", "|": "bars" };
const NUMBER = /^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$/;
/** Whether a text is a number as JSON writes it, and one that is not rounded: `007` and card numbers are none. */
export const plainNumber = (cell) => NUMBER.test(cell) && Math.abs(Number(cell)) <= Number.MAX_SAFE_INTEGER;

/** The table of a CSV text: its column names, and its rows as `{line, cells}`; blank rows are none. */
export function table(content) {
  const [header, ...rows] = records(content).filter(({ cells }) => !cells.every(blank));
  if (!header) return { names: [], rows };
  const names = header.cells.map(trimmed);
  const seen = new Set(), twice = names.find((name) => name && (seen.has(name) || !seen.add(name)));
  if (twice) throw refusal(header.line, `names the column "${twice}" twice; give each column a name of its own`);
  for (const { line, cells } of rows) {
    if (cells.length !== names.length) {
      const cure = cells.length > names.length ? "put cells that hold a comma into quotes" : "add the missing ones";
      throw refusal(line, `has ${plural(cells.length, "cell")} and the header ${names.length}; ${cure}`);
    }
  }
  return { names, rows };
}

/** Which columns hold numbers: every cell that is not empty is one, and not all are empty. */
export const numbers = ({ names, rows }) => names.map((_, j) =>
  rows.some(({ cells }) => cells[j] !== "") && rows.every(({ cells }) => cells[j] === "" || plainNumber(cells[j])));

function records(content) {
  const found = [], plain = /[^,\r\n]*/y;
  let at = 0, line = 1;
  while (at < content.length) {
    const record = { line, cells: [] };
    for (;;) {
      if (content[at] === '"') {
        const end = closing(content, at, line), inside = content.slice(at + 1, end);
        record.cells.push(inside.replaceAll('""', '"'));
        line += lineEnds(inside);
        at = end + 1;
      } else {
        plain.lastIndex = at;
        record.cells.push(plain.exec(content)[0]);
        at = plain.lastIndex;
      }
      if (content[at] !== ",") break;
      at++;
    }
    found.push(record);
    at += content.startsWith("\r\n", at) ? 2 : 1;
    line++;
  }
  return found;
}

/** Where the quote that opens at `at`, on `line`, is closed. */
function closing(content, at, line) {
  let end = content.indexOf('"', at + 1);
  while (end !== -1 && content[end + 1] === '"') end = content.indexOf('"', end + 2);
  if (end === -1) throw refusal(line, "opens a quote that is never closed; close it, or double a quote that is meant");
  const next = content[end + 1] ?? "\n";
  if (OTHERS[next]) throw refusal(line, `has ${OTHERS[next]} between its cells; save the file with commas`);
  if (!",\r\n".includes(next)) throw refusal(line, "opens a quote with text after its end; double a quote that is meant");
  return end;
}
