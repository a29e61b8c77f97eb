// Try, as vectors: how alike texts are, each vector, its tokens, and files of them.

import { embed } from "./api.js";
import { copyButton, el, facts, plural, svg, whole } from "./dom.js";
import { heatMap } from "./heat.js";
import { npy, saveButton } from "./npy.js";
import { modelOf } from "./pick.js";
import { embedCalls } from "./snippets.js";
import { cutLine, cutNote, cutTexts, tokensOf } from "./try-tokens.js";

const MOST_ROWS = 50;

export const EMBED = {
  gives: "dense", texts: "Texts", press: "Embed", calls: embedCalls, ask,
  title: "Turn text into vectors",
  lead: "One text a line. Texts that mean the same lie close together.",
  empty: ["Nothing embedded yet", "Press Embed to see how close these texts are."],
  missing: { what: "dense vectors", entry: '"small": {"model_name": "sentence-transformers/all-MiniLM-L6-v2"}' },
};

async function ask({ model, texts, dimensions, truncate }) {
  const result = await embed(texts, model, { ...(dimensions ? { dimensions } : {}), ...(truncate ? { truncate } : {}) });
  const cut = await cutTexts(model, texts, result.truncated);
  return { drawn: draw(model, texts, result, cut), said: `${plural(texts.length, "text")} embedded in ${result.ms.toFixed(0)} ms` };
}

function draw(model, texts, { vectors, tokens, truncated, fingerprint, ms }, cut) {
  const rows = () => vectors.map((vector) => Array.from(vector));
  const all = () => JSON.stringify({ model, fingerprint, texts, embeddings: rows() });
  return el("div", {},
    facts({ Texts: whole(texts.length), Dimensions: whole(vectors[0].length), Tokens: whole(tokens),
      Truncated: whole(truncated), Time: `${ms.toFixed(0)} ms` }),
    cutNote(truncated, cut),
    texts.length > 1 ? heatMap(texts, vectors, "Similarity of the texts") : null,
    el("div", { class: "vectors" },
      el("div", { class: "heading" }, el("h2", {}, "Vectors"), el("div", { class: "actions" },
        saveButton("Save as JSON", "vectors.json", all), saveButton("Save as .npy", "vectors.npy", () => npy(vectors)))),
      texts.slice(0, MOST_ROWS).map((text, i) => vectorRow(model, text, vectors[i], cut.get(i))),
      texts.length > MOST_ROWS ? el("p", { class: "hint" }, `The first ${MOST_ROWS} of ${whole(texts.length)} are shown; the files have all.`) : null));
}

function vectorRow(model, text, vector, cut) {
  const first = Array.from(vector.slice(0, 6), (x) => x.toFixed(4)).join(", ");
  return el("div", { class: "vector" },
    el("p", { class: "text", title: text }, text), copyButton(() => JSON.stringify(Array.from(vector))),
    cutLine(model, cut),
    stripe(vector), el("p", { class: "mono" }, `[${first}${vector.length > 6 ? ", …" : ""}]`),
    modelOf(model)?.device === "remote" ? null : tokensOf(model, text));
}

/** A vector as a band of fine bars, up for positive and down for negative numbers. */
function stripe(vector) {
  const width = Math.min(vector.length, 192), step = vector.length / width;
  const values = Array.from({ length: width }, (_, i) => vector[Math.floor(i * step)]);
  const top = Math.max(...values.map(Math.abs)) || 1;
  const path = values.map((x, i) => `M${i + 0.5} 12v${(-11 * x / top).toFixed(2)}`).join("");
  return svg("svg", { class: "stripe", viewBox: `0 0 ${width} 24`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { d: path }));
}
