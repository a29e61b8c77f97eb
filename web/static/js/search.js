// Search in the opened collection: by meaning, or for what is like a record; under the filter, page by page.

import { call, patiently } from "./api.js";
import { complain, el, plural, whole } from "./dom.js";
import { filterBar } from "./filters-bar.js";
import { filterOf, partsOf, read } from "./filters.js";
import { hitList } from "./search-hits.js";

const HITS = [5, 10, 20, 50, 100], USUAL = 10;
const WINDOW = 10000; // offset and number of results together: the store's limit
const KEYS = ["q", "like", "k", "filter", "min_score"]; // of the address

/** The search of a collection, its filter, and what was found. */
export function searchPart(view) {
  const input = el("input", { id: "search-text", type: "search", autocomplete: "off", placeholder: "What are you looking for?", "aria-label": "Search by meaning" });
  const most = el("select", { id: "search-most", "aria-label": "Most results" }, HITS.map((count) => el("option", { value: String(count) }, `${count} results`)));
  const least = el("input", { id: "search-least", type: "number", step: "any", "aria-label": "Lowest score", placeholder: "Lowest score", title: "Results with a lower score are left out" });
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const said = el("p", { class: "hint", role: "status" });
  const like = el("p", { class: "like", hidden: true });
  const results = el("div", { class: "results" });
  const form = el("form", { class: "search", role: "search" }, input, most, least, el("button", { type: "submit" }, "Search"), error, like, said);
  const part = { view, form, input, most, least, error, said, like, results, turn: 0, hits: [] };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const before = view.query;
    view.change({ q: input.value, like: input.value ? null : view.query.like, k: most.value === String(USUAL) ? null : most.value, min_score: least.value });
    if (KEYS.every((key) => before[key] === view.query[key])) run(part); // the same once more
  });
  input.addEventListener("input", () => { if (!input.value && view.query.q) view.change({ q: null }); });
  const on = (name, listener) => view.addEventListener(name, listener, { signal: view.signal });
  on("query", (event) => { if (event.detail.some((key) => KEYS.includes(key))) follow(part); });
  on("info", () => { if (view.query.q || view.query.like) run(part); });
  follow(part);
  return el("div", { class: "search-part" }, form, filterBar(view), results);
}

/** Show what the address says, and search for it. */
function follow(part) {
  const { q, k, min_score: least, like } = part.view.query;
  if (part.input.value !== (q ?? "")) part.input.value = q ?? "";
  const wanted = k ?? String(USUAL);
  if (![...part.most.options].some((one) => one.value === wanted)) part.most.append(el("option", { value: wanted }, `${wanted} results`));
  part.most.value = wanted;
  part.least.value = least ?? "";
  part.like.hidden = !like || Boolean(q);
  part.like.replaceChildren("Like ", el("b", {}, like ?? ""), " ", el("button", { type: "button", class: "quiet small", onclick: () => part.view.change({ like: null }) }, "Stop"));
  if (q || like) run(part);
  else empty(part);
}

function empty(part) {
  part.turn += 1; // what is under way is not wanted any more
  idle(part);
  part.results.replaceChildren();
  part.said.textContent = "";
  complain(part.error, null);
  if (part.view.hits.length) part.view.found([]);
}

const idle = (part) => part.form.removeAttribute("aria-busy");

/** Search; with `offset` for more of the same. */
async function run(part, offset = 0) {
  const turn = ++part.turn, { view } = part, mine = () => turn === part.turn;
  part.form.setAttribute("aria-busy", "true");
  complain(part.error, null);
  try {
    const { data, ms } = await patiently([503], () => call("POST", `${view.path}/search`, queryOf(view, offset), { signal: view.signal }),
      (error) => { if (mine()) complain(part.error, error); }, view.signal);
    if (!mine()) return;
    complain(part.error, null);
    part.hits = offset ? [...part.hits, ...data.results] : data.results;
    tell(part, data, ms, offset);
    view.found(part.hits.map((one) => one.id));
  } catch (error) {
    if (!mine() || error.name === "AbortError") return;
    if (!offset) empty(part);
    complain(part.error, error);
  } finally {
    if (mine()) idle(part);
  }
}

function queryOf({ query: { q, like, k, filter, min_score: least } }, offset) {
  const body = { k: Number(k ?? USUAL), offset, ...(q ? { text: q } : { id: like }) };
  if (filter) body.filter = filterOf(partsOf(read(filter)));
  if (least !== undefined) body.min_score = Number(least);
  return body;
}

function tell(part, { results, exact }, ms, offset) {
  const { hits, view } = part, k = Number(view.query.k ?? USUAL);
  part.said.textContent = hits.length ? `${plural(hits.length, "result")} in ${ms.toFixed(0)} ms${exact ? "" : " · approximate"}`
    : `0 results in ${ms.toFixed(0)} ms: ${view.query.filter ? "nothing matches the filter" : "nothing is stored yet"}${view.query.min_score === undefined ? "" : ", or scores are lower"}`;
  const next = offset + results.length;
  const full = results.length === k && next < view.info.count && next + k <= WINDOW;
  const more = full ? el("button", { type: "button", class: "quiet more", onclick: () => run(part, next) }, "More results") : null;
  part.results.replaceChildren(...(hits.length ? [hitList(view, hits)] : []), ...(more ? [more] : []),
    ...(results.length === k && next + k > WINDOW ? [el("p", { class: "hint" }, `A search shows the best ${whole(WINDOW)}. Narrow it by a filter to see others.`)] : []));
  if (offset) part.results.querySelectorAll("li a")[offset]?.focus(); // the first new one
}
