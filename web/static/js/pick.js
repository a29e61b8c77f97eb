// The models there are, and the lists a person picks one from.

import { call } from "./api.js";
import { el } from "./dom.js";

let known = { data: [], default: null };
// What a model gives that was not loaded yet, by its type; the others give dense vectors.
const GIVES = { reranker: "score", sparse: "sparse", multi_vector: "multi_vector" };

/** Ask the service for its models and fill the given lists with those that give dense vectors. */
export async function refreshModels(...selects) {
  known = (await call("GET", "/models")).data;
  for (const select of selects) offer(select);
  return known;
}

/** Fill a list with the usable models that give `what`, keeping what was chosen; returns them. */
export function offer(select, what = "dense") {
  const found = usable(what), chosen = [select.value, known.default].find((id) => found.some((model) => model.id === id));
  select.replaceChildren(...found.map((model) => el("option", { value: model.id }, model.id)));
  if (chosen) select.value = chosen;
  return found;
}

/** The models that may be asked for `what`: "dense", "sparse", or the "score" of a pair. */
export const usable = (what) => known.data.filter((model) => model.status !== "unavailable" && gives(model, what));

/** Whether a model gives `what`. */
export function gives(model, what) {
  if (model.kind === "classifier") return false; // its scores are of labels
  return model.outputs.length ? model.outputs.includes(what) : (GIVES[model.type] ?? "dense") === what;
}

export const modelOf = (id) => known.data.find((model) => model.id === id);
export const defaultModel = () => known.default;
