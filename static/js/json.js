// JSON whose whole numbers stay what they are: JavaScript rounds those beyond 2^53.

const LONG = /\d{16}/; // fewer digits always fit

/** Parse JSON; a whole number that would be rounded is kept as JSON.rawJSON, which is written as it was read. */
export const parse = (text) => JSON.parse(text, LONG.test(text) ? exact : undefined);

function exact(key, value, context) {
  if (typeof value !== "number" || Number.isSafeInteger(value) || !Number.isInteger(value)) return value;
  if (!context) throw new RangeError("this browser cannot keep a number of more than 15 digits; take a newer one");
  return /^-?\d+$/.test(context.source) ? JSON.rawJSON(context.source) : value;
}

/** The digits of a number that `parse` kept, else undefined. */
export const digits = (value) => (JSON.isRawJSON?.(value) ? value.rawJSON : undefined);

// NaN and the infinities, as some programs write them where JSON has null; strings stay as they are.
const STRING_OR_NO_NUMBER = /"(?:[^"\\]|\\.)*"|\bNaN\b|-?\bInfinity\b/g;

/** JSON with null in place of NaN and the infinities. */
export const withoutNaN = (text) => text.replace(STRING_OR_NO_NUMBER, (found) => (found[0] === '"' ? found : "null"));
