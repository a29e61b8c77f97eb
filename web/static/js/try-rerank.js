// Try, as scores: how well each document answers a query, the best first.

import { call } from "./api.js";
import { el, facts, plural, whole } from "./dom.js";
import { rerankCalls } from "./snippets.js";
import { cutNote, cutTexts } from "./try-tokens.js";

export const RERANK = {
  gives: "score", texts: "Documents", press: "Rank", calls: rerankCalls, ask,
  title: "Rank documents by a query",
  lead: "A reranker reads the query together with each document, one a line, and says how well that answers it.",
  empty: ["Nothing ranked yet", "Press Rank to see which of these documents answers the query best."],
  missing: { what: "scores", entry: '"ranker": {"model_name": "BAAI/bge-reranker-v2-m3"}' },
};

async function ask({ model, query, texts, truncate }) {
  if (!query) throw new Error("Write a query.");
  const body = { model, query, documents: texts, return_documents: false, ...(truncate ? { truncate } : {}) };
  const { data, headers, ms } = await call("POST", "/rerank", body);
  const truncated = Number(headers.get("X-Truncated-Inputs") || 0), cut = await cutTexts(model, texts, truncated, query);
  const drawn = el("div", {},
    facts({ Documents: whole(texts.length), Tokens: whole(data.usage.total_tokens), Truncated: whole(truncated), Time: `${ms.toFixed(0)} ms` }),
    cutNote(truncated, cut, "document"),
    el("ol", { class: "ranks" }, data.results.map((row) => rank(texts[row.index], row, cut.get(row.index)))));
  return { drawn, said: `${plural(texts.length, "document")} ranked in ${ms.toFixed(0)} ms` };
}

/** A document with its score as a number and a bar. Scores are in 0..1, except some providers'. */
function rank(text, { index, relevance_score: score }, cut) {
  const bar = el("span", { class: "share" });
  bar.style.setProperty("--share", Math.min(1, Math.max(0, score)).toFixed(4));
  return el("li", {}, el("span", { class: "number" }, String(index + 1)),
    el("span", { class: "text" }, text), el("span", { class: "score" }, score.toFixed(3)), bar,
    cut ? el("p", { class: "note" }, `Cut: its ${plural(cut, "token")} are too many beside the query.`) : null);
}
