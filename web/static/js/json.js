// JSON whose large numbers stay what they are: JavaScript rounds those beyond 2^53, and writes 1e20
// as a whole number of 21 digits.

const LONG = /\d{16}|\d[eE]\+?\d/; // what has neither always fits

/** Parse JSON; a number of a whole value beyond 2^53 is kept as JSON.rawJSON, which is written as it was read. */
export const parse = (text) => JSON.parse(text, LONG.test(text) ? exact : undefined);

function exact(key, value, context) {
  if (typeof value !== "number" || Number.isSafeInteger(value) || !Number.isInteger(value)) return value;
  if (!context) throw new RangeError("this browser cannot keep a number of more than 15 digits; take a newer one");
  return JSON.rawJSON(context.source);
}
