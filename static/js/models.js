// The Models tab: what runs, which one is the default, and how two of them differ.

import { call, embed, has, may, patiently } from "./api.js";
import { $, complain, during, el, facts, linesOf, toast, whole } from "./dom.js";
import { cosine, heatMap, similarities } from "./heat.js";
import { modelOf, refreshModels } from "./pick.js";

const AGAIN_MS = 1500;
let waiting = null;

/** Make the tab work; called once. */
export function setUp() {
  const form = $("compare-form");
  form.addEventListener("submit", (event) => { event.preventDefault(); during(form, compare); });
  const loading = $("load-form");
  loading.addEventListener("submit", (event) => { event.preventDefault(); during(loading, load); });
}

/** Called whenever the tab is opened. */
export async function show() {
  clearTimeout(waiting);
  const known = await refreshModels($("compare-a"), $("compare-b"));
  const ids = Array.from($("compare-b").options, (option) => option.value);
  if ($("compare-a").value === $("compare-b").value && ids.length > 1) {
    $("compare-b").value = ids.find((id) => id !== $("compare-a").value);
  }
  $("load-form").hidden = !has("POST /settings") || !may("admin");
  $("model-cards").replaceChildren(...known.data.map((model) => card(model, model.id === known.default)));
  if (known.data.some((model) => model.status === "loading")) waiting = setTimeout(() => show().catch(() => {}), AGAIN_MS);
}

/** Stop asking; called when the tab is left. */
export function hide() {
  clearTimeout(waiting);
}

function card(model, isDefault) {
  return el("article", { class: "card model", "data-model": model.id },
    el("div", { class: "heading" }, el("h2", {}, model.id),
      el("span", { class: `state ${model.status}` }, model.status)),
    el("p", { class: "hint" }, model.model_name),
    model.status === "loading" ? el("progress", { "aria-label": `${model.id} is loading` }) : null,
    model.reason ? el("p", { class: "note" }, model.reason) : null,
    facts({ Dimensions: number(model.dimension), "Most tokens": number(model.max_seq_length),
      "Texts a request": number(model.max_client_batch_size), Runs: [model.device, model.dtype].filter(Boolean).join(" · ") || "–" }),
    model.fingerprint ? el("p", { class: "mono fingerprint", title: "Changes whenever its vectors would" }, model.fingerprint) : null,
    isDefault ? el("p", { class: "default" }, "Default model") : makeDefault(model));
}

const number = (value) => (value === null || value === undefined ? "–" : whole(value));

function makeDefault(model) {
  if (!has("POST /settings") || !may("admin") || model.status !== "ready") return null;
  const bar = el("progress", { hidden: true, "aria-label": `Loading ${model.id}` });
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const button = el("button", { type: "button", class: "quiet small" }, "Make default");
  button.addEventListener("click", async () => {
    button.disabled = true;
    bar.hidden = false;
    try {
      await swapTo(model.id);
    } catch (problem) {
      complain(error, problem);
    } finally {
      button.disabled = false;
      bar.hidden = true;
    }
  });
  return el("div", { class: "actions" }, button, bar, error);
}

async function load() {
  const name = $("load-name").value.trim(), bar = $("load-form").querySelector("progress");
  bar.hidden = false;
  try {
    await swapTo(name);
    $("load-form").reset();
  } finally {
    bar.hidden = true;
  }
}

/** Load a model and make it the default; requests go on with the old one until it is ready. */
async function swapTo(name) {
  await call("POST", "/settings", { key: "model_name", value: name });
  toast(`${name} is the default now`);
  await show();
}

async function compare(tell) {
  const texts = linesOf($("compare-texts").value);
  const ids = [$("compare-a").value, $("compare-b").value];
  if (texts.length < 2) throw new Error("Write at least two texts.");
  const results = [];
  for (const id of ids) results.push(await patiently([503], () => embed(texts, id), tell));
  const rows = results.map((result) => similarities(result.vectors));
  $("compare-result").replaceChildren(
    facts({ Agreement: agreement(rows[0], rows[1]) }),
    el("div", { class: "pair" }, results.map((result, i) => el("div", {},
      el("h3", {}, ids[i]),
      facts({ Dimensions: whole(result.vectors[0].length), Tokens: whole(result.tokens), Time: `${result.ms.toFixed(0)} ms` }),
      heatMap(texts, rows[i], `How ${modelOf(ids[i])?.id ?? ids[i]} sees the pairs`)))));
}

/** How alike two models order the pairs: the correlation of their similarities. */
function agreement(a, b) {
  const pairs = (rows) => rows.flatMap((row, i) => row.slice(i + 1));
  const centred = (values) => { const mean = values.reduce((x, y) => x + y, 0) / values.length; return values.map((x) => x - mean); };
  const one = pairs(a), other = pairs(b);
  return one.length < 2 ? "needs three texts" : cosine(centred(one), centred(other)).toFixed(2);
}
