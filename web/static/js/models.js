// The Models tab: what runs, which one is the default, and how two of them differ.

import { call, embed, may, patiently } from "./api.js";
import { $, complain, correct, during, el, facts, linesOf, toast, whole } from "./dom.js";
import { cosine, heatMap, similarities } from "./heat.js";
import { defaultModel, gives, modelOf, refreshModels } from "./pick.js";
import { STATES } from "./providers.js";

const AGAIN_MS = 1500, TICK_MS = 1000;
const LOADING = "Loading and checking it beside the present model", LEAVING = "It serves; the old model finishes its requests";
const GIVES = { dense: "vectors", sparse: "sparse terms", multi_vector: "vectors of tokens", score: "scores" };
const KINDS = { key_wrong: "", failing: "", open: "", reachable: "ready" }; // the others are grey: nothing is broken
const since = new Map(); // id: when it was first seen loading
let waiting = null;

/** Make the tab work; called once. */
export function setUp() {
  const form = $("compare-form");
  form.addEventListener("submit", (event) => { event.preventDefault(); during(form, compare); });
  const loading = $("load-form");
  loading.noValidate = true;
  loading.addEventListener("submit", (event) => { event.preventDefault(); if (correct(loading)) during(loading, load); });
}

/** Called whenever the tab is opened. */
export async function show() {
  clearTimeout(waiting);
  const known = await refreshModels($("compare-a"), $("compare-b"));
  const ids = Array.from($("compare-b").options, (option) => option.value);
  if ($("compare-a").value === $("compare-b").value && ids.length > 1) {
    $("compare-b").value = ids.find((id) => id !== $("compare-a").value);
  }
  $("load-form").hidden = !may("admin");
  $("compare-form").hidden = ids.length < 2;
  $("model-cards").replaceChildren(...known.data.map((model) => card(model, model.id === known.default)));
  for (const model of known.data) if (model.status !== "loading") since.delete(model.id);
  if (known.data.some((model) => model.status === "loading")) waiting = setTimeout(() => show().catch(() => {}), AGAIN_MS);
}

/** Stop asking; called when the tab is left. */
export function hide() {
  clearTimeout(waiting);
}

function card(model, isDefault) {
  return el("article", { class: "card model", "data-model": model.id },
    el("div", { class: "heading" }, el("h2", {}, model.id),
      state(model)),
    el("p", { class: "hint" }, model.model_name),
    model.status === "loading" ? [el("progress", { "aria-label": `${model.id} is loading` }), el("p", { class: "hint" }, `Loading · ${loadingFor(model)} s`)] : null,
    reason(model),
    facts({ ...(gives(model, "dense") ? { Dimensions: number(model.dimension) } : {}), "Max tokens": number(model.max_seq_length),
      "Max texts per request": number(model.max_client_batch_size), Runs: model.provider ? `at ${model.provider.name}` : [model.device, model.dtype].filter(Boolean).join(" · ") || "–",
      ...(model.outputs.length ? { Gives: model.outputs.map((one) => GIVES[one] ?? one).join(", ") } : {}) }),
    model.fingerprint ? el("p", { class: "mono fingerprint", title: "Changes whenever its vectors would" }, model.fingerprint) : null,
    isDefault ? el("p", { class: "default" }, "Default model") : makeDefault(model));
}

/** Whether it can be used: red is what is broken, not what was never tried or lacks a key. */
function state(model) {
  const of = model.status === "loading" ? null : model.provider?.state;
  if (of) return el("span", { class: `state ${KINDS[of] ?? "grey"}` }, STATES[of]);
  return el("span", { class: `state ${model.status === "unloaded" ? "grey" : model.status}` }, model.status === "unloaded" ? "loads when used" : model.status);
}

/** Why it cannot be used, and where that is mended. */
function reason(model) {
  const { name, state: of } = model.provider ?? {};
  if (of === "no_key" || of === "key_wrong") {
    const what = of === "no_key" ? `It needs an API key of ${name}.` : `${name} refused the API key.`;
    return el("p", { class: of === "no_key" ? "hint" : "note" }, what, " ",
      may("admin") ? el("a", { href: "#/admin/providers" }, of === "no_key" ? "Store it under Admin" : "Replace it under Admin") : "An admin can store one.");
  }
  return model.reason ? el("p", { class: "note" }, model.reason) : null;
}

/** For how many seconds this page has seen a model load. */
function loadingFor(model) {
  if (!since.has(model.id)) since.set(model.id, performance.now());
  return secondsFrom(since.get(model.id));
}

const secondsFrom = (started) => Math.round((performance.now() - started) / 1000);
const number = (value) => (value === null || value === undefined ? "–" : whole(value));

function makeDefault(model) {
  const fails = ["no_key", "key_wrong", "failing", "open"].includes(model.provider?.state);
  if (!may("admin") || model.status !== "ready" || fails || !gives(model, "dense")) return null;
  const place = el("div", {});
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const button = el("button", { type: "button", class: "quiet small" }, "Make default");
  button.addEventListener("click", async () => {
    button.disabled = true;
    complain(error, null);
    try {
      await embed(["ping"], model.id); // a provider's key may be wrong, and nothing else would tell
      await swapTo(model.id, place);
    } catch (problem) {
      await show().catch(() => {}); // it may be unavailable now, and says why itself
      const card = document.querySelector(`[data-model="${CSS.escape(model.id)}"]`), told = card?.querySelector(".error");
      if (told) complain(told, problem);
      card?.querySelector("button")?.focus();
    } finally {
      button.disabled = false;
    }
  });
  return el("div", { class: "actions" }, button, place, error);
}

async function load() {
  await swapTo($("load-name").value.trim(), $("load-progress"));
  $("load-form").reset();
}

/** Load a model and make it the default; requests go on with the old one until it is ready.
    Meanwhile `place` tells the stage and the seconds. */
async function swapTo(name, place) {
  const stop = tellStages(place);
  try {
    await call("POST", "/settings", { key: "model_name", value: name });
  } finally {
    stop();
  }
  toast(`${name} is the default now`);
  await show();
}

/** Show in `place` what an exchange is at, until what is returned is called. */
function tellStages(place) {
  const started = performance.now(), before = defaultModel();
  const stage = el("span", { role: "status" }, LOADING), seconds = el("span", { "aria-hidden": "true" });
  place.replaceChildren(el("progress", { "aria-label": "Changing the model" }), el("p", { class: "hint" }, stage, seconds));
  const tick = async () => {
    seconds.textContent = ` · ${secondsFrom(started)} s`;
    const now = await call("GET", "/models", undefined, { silent: true }).catch(() => null);
    if (now && now.data.default !== before) stage.textContent = LEAVING;
  };
  tick();
  const timer = setInterval(tick, TICK_MS);
  return () => { clearInterval(timer); place.replaceChildren(); };
}

async function compare(tell) {
  const texts = linesOf($("compare-texts").value);
  const ids = [$("compare-a").value, $("compare-b").value];
  if (texts.length < 2) throw new Error("Write at least two texts.");
  const results = [];
  for (const id of ids) results.push(await patiently([503], () => embed(texts, id), tell));
  const agreed = agreement(...results.map((result) => similarities(result.vectors)));
  $("compare-said").textContent = `${ids[0]} and ${ids[1]} compared; agreement: ${agreed}`;
  $("compare-result").replaceChildren(
    facts({ Agreement: agreed }),
    el("div", { class: "pair" }, results.map((result, i) => el("div", {},
      el("h3", {}, ids[i]),
      facts({ Dimensions: whole(result.vectors[0].length), Tokens: whole(result.tokens), Truncated: whole(result.truncated), Time: `${result.ms.toFixed(0)} ms` }),
      heatMap(texts, result.vectors, `How ${modelOf(ids[i])?.id ?? ids[i]} sees the pairs`)))));
}

/** How alike two models order the pairs: the correlation of their similarities. */
function agreement(a, b) {
  const pairs = (rows) => rows.flatMap((row, i) => row.slice(i + 1));
  const centred = (values) => { const mean = values.reduce((x, y) => x + y, 0) / values.length; return values.map((x) => x - mean); };
  const one = pairs(a), other = pairs(b);
  return one.length < 2 ? "needs three texts" : cosine(centred(one), centred(other)).toFixed(2);
}
