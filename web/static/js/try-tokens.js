// What a model reads of texts: their tokens, and which texts are longer than it reads.

import { call } from "./api.js";
import { complain, el, plural, whole } from "./dom.js";
import { modelOf } from "./pick.js";

const SHOWN = 300; // tokens of one text

const tokenize = async (model, texts) => (await call("POST", "/tokenize", { inputs: texts, model })).data;

/** Which of the texts the model cut, as a map from their places to their tokens. A reply only tells
    how many were cut; those have more tokens than the others, so they are counted. The map is empty
    where that cannot be done here (a provider's model), or where it leaves a doubt. `beside` is what
    each is read together with. */
export async function cutTexts(model, texts, count, beside = "") {
  const limit = modelOf(model)?.max_seq_length;
  if (!count || !limit) return new Map();
  const bytes = (text) => new TextEncoder().encode(text).length; // a token has at least one byte; the model adds a few
  const long = [...texts.keys()].filter((i) => bytes(texts[i]) + bytes(beside) + 32 > limit);
  const rows = await tokenize(model, long.map((i) => texts[i])).catch(() => []);
  const counts = rows.map((tokens, i) => [long[i], tokens.length]).sort((a, b) => b[1] - a[1]);
  const isSure = counts.length >= count && counts[count - 1][1] !== counts[count]?.[1];
  return new Map(isSure ? counts.slice(0, count).sort((a, b) => a[0] - b[0]) : []);
}

/** What to say beside a text that was cut; null if it was not. */
export function cutLine(model, tokens) {
  return tokens ? el("p", { class: "note" }, `Cut: ${whole(modelOf(model).max_seq_length)} of its ${plural(tokens, "token")} count.`) : null;
}

/** A line that says which texts were cut, null if none was. */
export function cutNote(count, cut, word = "text") {
  if (!count) return null;
  const places = [...cut.keys()].map((place) => place + 1), shown = places.slice(0, 20).join(", ");
  const which = places.length ? `: ${places.length === 1 ? word : `${word}s`} ${shown}${places.length > 20 ? ", …" : ""}` : "";
  return el("p", { class: "note" }, `${plural(count, word)} ${count === 1 ? "was" : "were"} longer than the model reads, and cut${which}.`);
}

/** The tokens of a text, asked for when they are opened. */
export function tokensOf(model, text) {
  const list = el("p", { class: "tokens" }), error = el("p", { class: "error", role: "alert", hidden: true });
  const place = el("details", { class: "of-text" }, el("summary", {}, "Tokens"), list, error);
  place.addEventListener("toggle", async () => {
    if (!place.open || list.childElementCount) return;
    try {
      complain(error, null);
      const [tokens] = await tokenize(model, [text]);
      const more = tokens.length > SHOWN ? [` and ${whole(tokens.length - SHOWN)} more`] : [];
      list.replaceChildren(...tokens.slice(0, SHOWN).map(({ id, text: piece, special }) =>
        el("span", { class: special ? "token special" : "token", title: `id ${id}` }, piece)), ...more);
    } catch (problem) {
      complain(error, problem);
    }
  });
  return place;
}
