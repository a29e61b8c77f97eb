// Ids for rows that have none: made of what a row holds, so that a file that is sent again is stored
// over and not twice. crypto.subtle would do it, but not where the page came over plain HTTP.

/** A function that tells the id of one row after the other: its own, or the same for the same file
    name, text and metadata. The second of two equal rows has another than the first. */
export function idsFor(name) {
  const seen = new Map();
  return ({ id, text, metadata }) => {
    if (id !== null) return id;
    const made = sha256(JSON.stringify([name, text, metadata])).slice(0, 32), before = seen.get(made) ?? 0;
    seen.set(made, before + 1);
    return before ? sha256(`${made} ${before}`).slice(0, 32) : made;
  };
}

// The first 32 bits of the fractions of the cube roots of the first 64 primes (FIPS 180-4).
const PRIMES = Array.from({ length: 312 }, (_, i) => i).filter((n) => n > 1 && ![2, 3, 5, 7, 11, 13, 17].some((p) => p < n && n % p === 0));
const bits = (root) => ((root - Math.floor(root)) * 2 ** 32) | 0;
const ROUNDS = PRIMES.map((prime) => bits(Math.cbrt(prime)));
const START = PRIMES.slice(0, 8).map((prime) => bits(Math.sqrt(prime)));

/** SHA-256 of a text's UTF-8, in hexadecimal. */
export function sha256(text) {
  const given = new TextEncoder().encode(text);
  const bytes = new Uint8Array(Math.ceil((given.length + 9) / 64) * 64), view = new DataView(bytes.buffer);
  bytes.set(given);
  bytes[given.length] = 0x80;
  view.setBigUint64(bytes.length - 8, 8n * BigInt(given.length));
  const state = [...START], words = new Int32Array(64);
  for (let at = 0; at < bytes.length; at += 64) mix(state, words, view, at);
  return state.map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
}

const turn = (x, n) => (x >>> n) | (x << (32 - n));

function mix(state, words, view, at) {
  for (let i = 0; i < 16; i++) words[i] = view.getInt32(at + 4 * i);
  for (let i = 16; i < 64; i++) {
    const x = words[i - 15], y = words[i - 2];
    words[i] = words[i - 16] + words[i - 7] + (turn(x, 7) ^ turn(x, 18) ^ (x >>> 3)) + (turn(y, 17) ^ turn(y, 19) ^ (y >>> 10));
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + ROUNDS[i] + words[i]) | 0;
    const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((value, i) => { state[i] = (state[i] + value) | 0; });
}
