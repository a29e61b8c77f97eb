// Try, as sparse vectors: the terms of each text with their weights, as words.

import { call } from "./api.js";
import { copyButton, el, facts, plural, whole } from "./dom.js";
import { sparseCalls } from "./snippets.js";
import { cutLine, cutNote, cutTexts } from "./try-tokens.js";

const FIRST = 24; // terms of a text that are shown before "more"

export const SPARSE = {
  gives: "sparse", texts: "Texts", press: "Get terms", calls: sparseCalls, ask,
  title: "Turn text into weighted words",
  lead: "A sparse model gives weights to words, also to words that the text does not have. One text a line.",
  empty: ["No terms yet", "Press Get terms to see which words stand for these texts."],
  missing: { what: "sparse terms", entry: '"m3": {"model_name": "BAAI/bge-m3"}' },
};

async function ask({ model, texts, truncate }) {
  const body = { model, texts, outputs: ["sparse"], sparse_format: "terms", ...(truncate ? { truncate } : {}) };
  const { data, headers, ms } = await call("POST", "/embed", body);
  const truncated = Number(headers.get("X-Truncated-Inputs") || 0), cut = await cutTexts(model, texts, truncated);
  const rows = data.sparse.map((terms) => Object.entries(terms).sort((a, b) => b[1] - a[1]));
  const heaviest = Math.max(...rows.flatMap((row) => row.slice(0, 1).map(([, weight]) => weight)), 1e-9);
  const shared = new Set(termsOf(rows).filter((term, i, all) => all.indexOf(term) !== i));
  const count = rows.reduce((sum, row) => sum + row.length, 0);
  const drawn = el("div", {},
    facts({ Texts: whole(texts.length), "Terms a text": (count / texts.length).toFixed(1), Truncated: whole(truncated), Time: `${ms.toFixed(0)} ms` }),
    cutNote(truncated, cut),
    el("p", { class: "hint" }, "The heaviest terms of each text. Framed: a term that several texts have."),
    el("ol", { class: "sparse" }, rows.map((row, i) => textRow(model, texts[i], row, heaviest, shared, cut.get(i)))));
  return { drawn, said: `Terms of ${plural(texts.length, "text")} in ${ms.toFixed(0)} ms` };
}

const termsOf = (rows) => rows.flatMap((row) => row.slice(0, FIRST).map(([term]) => term));

function textRow(model, text, row, heaviest, shared, cut) {
  const chip = ([term, weight]) => {
    const place = el("li", { class: shared.has(term) ? "term shared" : "term" }, el("span", {}, term), " ", el("span", { class: "weight" }, weight.toFixed(2)));
    place.style.setProperty("--share", (weight / heaviest).toFixed(3));
    return place;
  };
  const terms = el("ul", { class: "terms" }, row.slice(0, FIRST).map(chip)), left = row.slice(FIRST);
  const more = left.length ? el("button", { type: "button", class: "quiet small", onclick: () => { terms.append(...left.map(chip)); more.remove(); } }, `${whole(left.length)} more`) : null;
  return el("li", {}, el("div", { class: "heading" }, el("p", { class: "text" }, text), copyButton(() => JSON.stringify(Object.fromEntries(row)))),
    cutLine(model, cut), row.length ? terms : el("p", { class: "hint" }, "It has no terms."), more);
}
