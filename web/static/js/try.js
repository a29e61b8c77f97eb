// The Try tab: texts in; vectors, scores or terms out; and the same call as code.

import * as address from "./address.js";
import { guarded, patiently } from "./api.js";
import { $, correct, during, el, linesOf } from "./dom.js";
import { offer, refreshModels, modelOf } from "./pick.js";
import { showSnippets } from "./snippets.js";
import { EMBED } from "./try-embed.js";
import { RERANK } from "./try-rerank.js";
import { SPARSE } from "./try-sparse.js";

// Each says what it needs of a model and of the form, makes its call, and draws what came.
const MODES = { embed: EMBED, rerank: RERANK, sparse: SPARSE };
const results = new Map(); // mode: what it showed last
let mode = "embed";

/** Make the tab work; called once. */
export function setUp() {
  const form = $("try-form");
  form.noValidate = true; // what is wrong is said below the form, in one place
  form.addEventListener("submit", (event) => { event.preventDefault(); if (correct(form)) during(form, run); });
  form.addEventListener("input", code);
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  $("try-modes").addEventListener("change", (event) => {
    address.write({ tab: "try", query: { mode: event.target.value === "embed" ? "" : event.target.value } });
    choose(event.target.value);
  });
}

/** Called whenever the tab is opened. */
export async function show() {
  await refreshModels();
  const place = address.read(); // as it is now: a mode may have been chosen meanwhile
  if (place.tab === "try") move(place);
}

/** Called when the address changes while the tab is open. */
export function move(place) {
  choose(place?.query?.mode in MODES ? place.query.mode : "embed");
}

/** Show the form, the models and the last result of a mode. */
function choose(name) {
  mode = name;
  const { title, texts, press, lead, empty, gives, missing } = MODES[name];
  $("try-modes").querySelector(`[value=${name}]`).checked = true;
  $("try-title").textContent = title;
  $("try-lead").textContent = lead;
  $("try-texts-label").textContent = texts;
  for (const field of document.querySelectorAll("#try-form [data-of]")) field.hidden = !field.dataset.of.split(" ").includes(name);
  const button = $("try-form").querySelector("[type=submit]"), there = offer($("try-model"), gives).length > 0;
  button.textContent = press;
  button.disabled = !there;
  $("try-code").hidden = !there;
  $("try-result").replaceChildren(there ? results.get(name) ?? el("div", { class: "empty" }, el("h2", {}, empty[0]), el("p", {}, empty[1])) : needs(missing));
  $("try-said").textContent = "";
  code();
}

/** What to configure where no model gives this. */
function needs({ what, entry }) {
  return el("div", { class: "empty" }, el("h2", {}, `No loaded model gives ${what}`),
    el("p", {}, "Add one to the models in model_config.json, and restart the service:"),
    el("pre", { tabindex: "0", "aria-label": "An entry of model_config.json" }, el("code", {}, entry)));
}

/** What is asked for; `dimensions` and `truncate` are null where they are not set. */
function asked() {
  const model = $("try-model").value;
  return {
    origin: location.origin, key: guarded(), model, prompts: modelOf(model)?.prompts ?? {}, texts: linesOf($("try-texts").value),
    query: $("try-query").value.trim(), dimensions: Number($("try-dimensions").value) || null, truncate: $("try-truncate").value || null,
  };
}

function code() {
  showSnippets($("try-code"), MODES[mode].calls(asked()));
}

async function run(tell) {
  if (!$("try-model").value) { // pressed before the list had come
    await refreshModels();
    choose(mode);
  }
  const now = mode, given = asked(), of = MODES[now];
  if (!given.texts.length) throw new Error("Write at least one text.");
  const { drawn, said } = await patiently([503], () => of.ask(given), tell);
  results.set(now, drawn);
  if (now !== mode) return; // another mode was chosen meanwhile
  const place = $("try-result");
  place.replaceChildren(drawn);
  $("try-said").textContent = said;
  if (place.getBoundingClientRect().top > innerHeight) place.scrollIntoView(); // below, on a phone
}
