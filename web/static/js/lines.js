// What every kind of text file shares: which bytes are text, what ends a line, what is blank.

// As Python's str.strip() and universal newlines have it, so that page and command line agree.
const SPACE = "[\\t-\\r\\x1c- \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const BLANK = new RegExp(`^${SPACE}*$`), EDGES = new RegExp(`^${SPACE}+|${SPACE}+$`, "g");
const LINE_END = /\r\n|\n|\r/g;

export const blank = (text) => BLANK.test(text);
export const trimmed = (text) => text.replace(EDGES, "");
export const lineEnds = (text) => text.match(LINE_END)?.length ?? 0;

/** The error that a line of a file is. */
export const refusal = (line, why) => new Error(`line ${line} ${why}`);

const AS_UTF8 = "save it as UTF-8 (Excel: “CSV UTF-8”)";
// How files begin that are no text, whatever their name ends in.
const SIGNS = [
  ["PK\x03\x04", "it is a ZIP archive or an Office document; export a sheet as “CSV UTF-8”"],
  ["\xd0\xcf\x11\xe0", "it is an old Office document; export a sheet as “CSV UTF-8”"],
  ["PAR1", "it is a Parquet file; embed_file.py reads those"],
  ["\x1f\x8b", "it is compressed; unpack it first"],
  ["%PDF-", "it is a PDF; save its text first"],
  ["\xff\xfe", `it is UTF-16; ${AS_UTF8}`],
  ["\xfe\xff", `it is UTF-16; ${AS_UTF8}`],
];

/** The text of a file's bytes, without a byte order mark. Throws an Error if they are no text in UTF-8. */
export function decoded(bytes) {
  const text = utf8(bytes), nul = text === null ? -1 : text.indexOf("\0");
  if (text !== null && nul === -1) return text;
  const start = String.fromCharCode(...bytes.subarray(0, 8));
  const sign = SIGNS.find(([mark]) => start.startsWith(mark));
  if (sign) throw new Error(sign[1]);
  if (text === null) throw refusal(1 + lineEnds(readable(bytes)), `is not UTF-8; ${AS_UTF8}`);
  throw refusal(1 + lineEnds(text.slice(0, nul)), `holds a NUL, as UTF-16 and binary files do; ${AS_UTF8}`);
}

function utf8(bytes, stream = false) {
  try { return new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream }); } catch { return null; }
}

/** The text before the first byte that is not UTF-8. */
function readable(bytes) {
  let good = 0, bad = bytes.length; // so many bytes can be read, so many cannot: halved until they meet
  while (bad - good > 1) {
    const middle = (good + bad) >> 1;
    if (utf8(bytes.subarray(0, middle), true) === null) bad = middle; else good = middle;
  }
  return utf8(bytes.subarray(0, good), true);
}
