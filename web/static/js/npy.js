// Files of vectors: NumPy's .npy, and a button that saves a file.

import { el } from "./dom.js";

/** Vectors of equal length as the bytes of a .npy file, version 1.0 of NumPy's format: (n, d) little-endian float32. */
export function npy(vectors) {
  const width = vectors[0].length, before = 10; // magic, version, and the length of the header
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${vectors.length}, ${width}), }`;
  const header = text.padEnd(Math.ceil((before + text.length + 1) / 64) * 64 - before - 1) + "\n";
  const file = new DataView(new ArrayBuffer(before + header.length + 4 * vectors.length * width));
  [...`\x93NUMPY\x01\x00`].forEach((letter, i) => file.setUint8(i, letter.charCodeAt(0)));
  file.setUint16(8, header.length, true);
  [...header].forEach((letter, i) => file.setUint8(before + i, letter.charCodeAt(0)));
  let at = before + header.length;
  for (const vector of vectors) for (const number of vector) { file.setFloat32(at, number, true); at += 4; }
  return file.buffer;
}

/** A button that saves what `content()` returns (bytes or text) as a file of this name. */
export function saveButton(label, name, content) {
  return el("button", { type: "button", class: "quiet small", onclick: () => {
    const url = URL.createObjectURL(new Blob([content()]));
    el("a", { href: url, download: name }).click();
    URL.revokeObjectURL(url);
  } }, label);
}
