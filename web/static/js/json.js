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

/** A number that `parse` kept, as it was written, else undefined. */
export const kept = (value) => (JSON.isRawJSON?.(value) ? value.rawJSON : undefined);

/** The value of a number that `parse` kept, as a BigInt: exact of digits, else of the float that it is. */
export const whole = (value) => BigInt(isDigits(kept(value)) ? kept(value) : Number(kept(value)));
export const isDigits = (text) => /^-?\d+$/.test(text);

// NaN and the infinities, as some programs write them where JSON has null; strings stay as they are.
const STRING_OR_NO_NUMBER = /"(?:[^"\\]|\\.)*"|\bNaN\b|-?\bInfinity\b/g;

/** JSON with null in place of NaN, and with numbers that no float can hold in place of the infinities. */
export const withoutNaN = (text) => text.replace(STRING_OR_NO_NUMBER, (found) => (found[0] === '"' ? found : found === "NaN" ? "null" : found.replace("Infinity", "1e999")));
