// How close texts are: cosines of all pairs, drawn as a table whose cells carry the number.

import { el } from "./dom.js";

const MOST = 30;

/** The cosine of two vectors. */
export function cosine(a, b) {
  let dot = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) {
    dot += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return aa && bb ? dot / Math.sqrt(aa * bb) : 0;
}

/** Cosines of all pairs of vectors, n rows of n. */
export const similarities = (vectors) => vectors.map((a) => vectors.map((b) => cosine(a, b)));

/** A table of how alike texts are, by their vectors; the more alike, the deeper the colour.
    Only the first `MOST` are compared and shown. */
export function heatMap(texts, vectors, caption) {
  const shown = texts.slice(0, MOST), rows = similarities(vectors.slice(0, MOST));
  const off = rows.flatMap((row, i) => row.filter((_, j) => i !== j));
  const low = Math.min(0, ...off), high = Math.max(0.01, ...off);
  const head = el("tr", {}, el("td", {}), shown.map((text, i) => el("th", { scope: "col", title: text }, String(i + 1))));
  const body = shown.map((text, i) => el("tr", {},
    el("th", { scope: "row", title: text }, el("span", { class: "number" }, String(i + 1)), " ", el("span", { class: "text" }, text)),
    shown.map((other, j) => cell(rows[i][j], i === j ? 1 : (rows[i][j] - low) / (high - low), i === j, `${text} / ${other}`))));
  const more = texts.length > MOST ? ` (the first ${MOST} of ${texts.length})` : "";
  return el("div", { class: "heat", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", {}, caption + more), el("thead", {}, head), el("tbody", {}, body)));
}

function cell(value, share, same, title) {
  const cellOf = el("td", { class: same ? "same" : null, title }, value.toFixed(2));
  cellOf.style.setProperty("--share", share.toFixed(3));
  return cellOf;
}
