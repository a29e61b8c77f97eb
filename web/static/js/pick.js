// The models there are, and the lists a person picks one from.

import { call } from "./api.js";
import { el } from "./dom.js";

let known = { data: [], default: null };

/** Ask the service for its models and fill the given lists, keeping what was chosen. */
export async function refreshModels(...selects) {
  known = (await call("GET", "/models")).data;
  for (const select of selects) {
    const chosen = select.value || known.default;
    const usable = known.data.filter((model) => model.status !== "unavailable");
    select.replaceChildren(...usable.map((model) => el("option", { value: model.id }, model.id)));
    if (usable.some((model) => model.id === chosen)) select.value = chosen;
  }
  return known;
}

export const modelOf = (id) => known.data.find((model) => model.id === id);
export const defaultModel = () => known.default;
