// How close texts are: cosines of all pairs, drawn as a table whose cells carry the number.

import { el } from "./dom.js";

const MOST = 30, ROOMY = 9; // of more texts than this the cells are small, and their numbers told below
const CLOSEST = 5;

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
    Only the first `MOST` are compared and shown. All of it fits in the width that is there; what a
    small cell means is told below for the one that is pointed at. */
export function heatMap(texts, vectors, caption) {
  const shown = texts.slice(0, MOST), rows = similarities(vectors.slice(0, MOST));
  const off = rows.flatMap((row, i) => row.filter((_, j) => i !== j));
  // A small cell has no number, so the colours are spread over what there is.
  const small = shown.length > ROOMY, low = Math.min(small ? 1 : 0, ...off), high = Math.max(low + 0.01, ...off);
  const head = el("tr", {}, el("td", {}), shown.map((text, i) => el("th", { scope: "col", title: text }, String(i + 1))));
  const body = shown.map((text, i) => el("tr", {},
    el("th", { scope: "row", title: text }, el("span", { class: "number" }, String(i + 1)), " ", el("span", { class: "text" }, text)),
    shown.map((other, j) => cell(rows[i][j], i === j ? 1 : (rows[i][j] - low) / (high - low), i === j, `${text} / ${other}`))));
  const more = texts.length > MOST ? ` (the first ${MOST} of ${texts.length})` : "";
  const said = el("p", { class: "hint said" }, "Point at a cell to read it.");
  const table = el("table", {}, el("caption", {}, caption + more), el("thead", {}, head), el("tbody", {}, body));
  if (small) table.addEventListener("pointerover", (event) => {
    const at = event.target.closest("tbody td");
    if (at) said.textContent = `${at.textContent}: ${at.title}`;
  });
  return el("div", { class: small ? "heat small" : shown.length > 4 ? "heat" : "heat few" }, table,
    small ? [said, closest(shown, rows)] : null);
}

function cell(value, share, same, title) {
  const cellOf = el("td", { class: same ? "same" : null, title }, value.toFixed(2));
  cellOf.style.setProperty("--share", share.toFixed(3));
  return cellOf;
}

/** The pairs of texts that are most alike. */
function closest(texts, rows) {
  const pairs = rows.flatMap((row, i) => row.slice(0, i).map((value, j) => ({ value, i, j })));
  pairs.sort((a, b) => b.value - a.value);
  return el("div", { class: "closest" }, el("h3", {}, "Most alike"),
    el("ol", {}, pairs.slice(0, CLOSEST).map(({ value, i, j }) => el("li", {},
      el("span", { class: "score" }, value.toFixed(2)), el("span", {}, `${j + 1} ${texts[j]}`), el("span", {}, `${i + 1} ${texts[i]}`)))));
}
