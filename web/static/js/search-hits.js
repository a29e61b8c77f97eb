// What a search found, as a list: score, text, metadata. A press opens the record.

import { hashOf } from "./address.js";
import { el } from "./dom.js";

const SHOWN = 12; // fields of a record in the list; the drawer shows all
const LONGEST = 600; // characters of a text or value in the list

/** Hits, the best first. */
export function hitList(view, hits) {
  const best = Math.max(numberOf(hits[0]?.score ?? 0), 0);
  return el("ol", {}, hits.map((one) => hit(view, one, best)));
}

/** One result. Its score is the deeper in colour the nearer it comes to the best one's. */
function hit(view, one, best) {
  const value = numberOf(one.score), score = el("span", { class: "score" }, Math.abs(value) < 1e4 ? value.toFixed(3) : value.toPrecision(3));
  score.style.setProperty("--share", best ? Math.max(0, value / best).toFixed(3) : "0");
  const metadata = flat(one.metadata ?? {}), more = metadata.length - SHOWN;
  return el("li", { "data-id": one.id }, score,
    el("div", {}, el("p", { class: "text" }, recordLink(view, one.id, brief(one.text || one.id))),
      metadata.length ? el("dl", { class: "meta" }, metadata.slice(0, SHOWN).map(([key, value]) =>
        el("div", {}, el("dt", {}, key), el("dd", {}, short(value)))),
      more > 0 ? el("div", {}, el("dt", {}, `and ${more} more`)) : null) : null),
    likeButton(view, one.id));
}

// Inner products may be beyond 2^53, which json.js keeps as they were written.
const numberOf = (value) => (typeof value === "number" ? value : Number(JSON.stringify(value)));

/** A link that opens a record in the drawer. */
export function recordLink(view, id, text) {
  const link = el("a", { class: "record-link", href: hashOf({ tab: "collections", name: view.info.name, query: { ...view.query, id } }) }, text);
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // into another tab or window
    event.preventDefault();
    view.change({ id });
  });
  return link;
}

/** A button that searches for what is like a record. */
export const likeButton = (view, id, label = "More like this") => el("button", {
  type: "button", class: "quiet small like-button", onclick: () => view.change({ like: id, q: null, id: null }),
}, label);

/** Metadata as `[name, value]`, inner objects by their fields as filters name them. */
export function flat(metadata, before = "") {
  return Object.entries(metadata).flatMap(([key, value]) => {
    const inner = value !== null && typeof value === "object" && !Array.isArray(value) && !JSON.isRawJSON?.(value) && Object.keys(value).length;
    return inner ? flat(value, `${before}${key}.`) : [[before + key, value]];
  });
}

/** A value as a list shows it; the drawer shows all of it. */
export function short(value, most = LONGEST) {
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(6)));
  return brief(typeof value === "string" ? value : JSON.stringify(value), most);
}

/** A text as a list shows it. */
export const brief = (text, most = LONGEST) => (text.length > most ? `${text.slice(0, most)}…` : text);
