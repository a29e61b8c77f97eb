// The Try tab: texts in, vectors and their likeness out.

import { embed, guarded, patiently } from "./api.js";
import { $, copyButton, during, el, facts, linesOf, plural, svg, whole } from "./dom.js";
import { heatMap } from "./heat.js";
import { refreshModels } from "./pick.js";
import { showSnippets, snippets } from "./snippets.js";

/** Make the tab work; called once. */
export function setUp() {
  const form = $("try-form");
  form.addEventListener("submit", (event) => { event.preventDefault(); during(form, run); });
  form.addEventListener("input", code);
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

/** Called whenever the tab is opened. */
export async function show() {
  await refreshModels($("try-model"));
  code();
}

function asked() {
  const options = {};
  if ($("try-dimensions").value) options.dimensions = Number($("try-dimensions").value);
  if ($("try-truncate").value) options.truncate = $("try-truncate").value;
  return { texts: linesOf($("try-texts").value), model: $("try-model").value, options };
}

function code() {
  const { texts, model, options } = asked();
  showSnippets($("try-code"), snippets(location.origin, model, texts, options, guarded()));
}

async function run(tell) {
  if (!$("try-model").value) await refreshModels($("try-model")); // pressed before the list had come
  const { texts, model, options } = asked();
  if (!texts.length) throw new Error("Write at least one text.");
  const result = await patiently([503], () => embed(texts, model, options), tell);
  const { vectors, tokens, truncated, ms } = result;
  $("try-result").replaceChildren(el("div", {},
    facts({ Texts: whole(texts.length), Dimensions: whole(vectors[0].length), Tokens: whole(tokens),
      Truncated: whole(truncated), Time: `${ms.toFixed(0)} ms` }),
    truncated ? el("p", { class: "note" }, "Some texts were longer than the model reads; only a part of them counts.") : null,
    texts.length > 1 ? heatMap(texts, vectors, "How alike the texts are") : null,
    el("div", { class: "vectors" }, el("h2", {}, "Vectors"), texts.slice(0, 50).map((text, i) => vectorRow(text, vectors[i])))));
  $("try-said").textContent = `${plural(texts.length, "text")} embedded in ${ms.toFixed(0)} ms`;
  const place = $("try-result");
  if (place.getBoundingClientRect().top > innerHeight) place.scrollIntoView(); // below, on a phone
}

function vectorRow(text, vector) {
  const first = Array.from(vector.slice(0, 6), (x) => x.toFixed(4)).join(", ");
  return el("div", { class: "vector" },
    el("p", { class: "text", title: text }, text), copyButton(() => JSON.stringify(Array.from(vector))),
    stripe(vector), el("p", { class: "mono" }, `[${first}${vector.length > 6 ? ", …" : ""}]`));
}

/** A vector as a band of fine bars, up for positive and down for negative numbers. */
function stripe(vector) {
  const width = Math.min(vector.length, 192), step = vector.length / width;
  const values = Array.from({ length: width }, (_, i) => vector[Math.floor(i * step)]);
  const top = Math.max(...values.map(Math.abs)) || 1;
  const path = values.map((x, i) => `M${i + 0.5} 12v${(-11 * x / top).toFixed(2)}`).join("");
  return svg("svg", { class: "stripe", viewBox: `0 0 ${width} 24`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { d: path }));
}
