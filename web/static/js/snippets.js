// The call a person just made, as they would write it in their own program.

import { copyButton, el } from "./dom.js";

const KEY = "EMBEDDING_API_KEY"; // what the code takes the key from
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
// JSON's true, false and null are the only words that Python writes otherwise, and none is used here.
const python = (value) => JSON.stringify(value, null, 4).replaceAll("\n", "\n    ");

/** The same call in each language. `options` holds only what was set; `guarded` says that a key is
    needed, which the code reads from the environment: no key is ever written into it. */
export function snippets(origin, model, texts, options, guarded) {
  const body = { model, input: texts, ...options };
  const extra = Object.entries(options).filter(([name]) => name !== "dimensions");
  const named = [
    `model=${python(model)}`,
    `input=${python(texts)}`,
    ...(options.dimensions ? [`dimensions=${options.dimensions}`] : []),
    ...(extra.length ? [`extra_body=${python(Object.fromEntries(extra))}`] : []),
  ];
  return {
    curl: `curl -s ${origin}/v1/embeddings \\\n  -H 'Content-Type: application/json' \\\n`
      + (guarded ? `  -H "Authorization: Bearer $${KEY}" \\\n` : "")
      + `  -d ${shell(JSON.stringify(body, null, 2))}`,
    requests: `${guarded ? "import os\n\n" : ""}import requests\n\nreply = requests.post(\n    ${python(`${origin}/v1/embeddings`)},\n`
      + (guarded ? `    headers={"Authorization": "Bearer " + os.environ["${KEY}"]},\n` : "")
      + `    json=${python(body)},\n)\nreply.raise_for_status()\nvectors = [row["embedding"] for row in reply.json()["data"]]\n`,
    openai: `${guarded ? "import os\n\n" : ""}from openai import OpenAI\n\nclient = OpenAI(base_url=${python(`${origin}/v1`)}, api_key=${guarded ? `os.environ["${KEY}"]` : '"unused"'})\nreply = client.embeddings.create(\n    ${named.join(",\n    ")},\n)\nvectors = [row.embedding for row in reply.data]\n`,
  };
}

/** Show the snippets in `place`, one at a time. */
export function showSnippets(place, code) {
  const chosen = place.dataset.language || "curl";
  const pre = el("pre", { tabindex: "0", "aria-label": "The same call as code" }, el("code", {}, code[chosen]));
  const buttons = Object.keys(code).map((name) => el("button", {
    type: "button", class: "choice", "aria-pressed": String(name === chosen),
    onclick: () => { place.dataset.language = name; showSnippets(place, code); place.querySelector("[aria-pressed=true]").focus(); },
  }, name));
  place.replaceChildren(
    el("div", { class: "heading" }, el("h2", {}, "The same call in your program"),
      el("div", { class: "choices" }, buttons, copyButton(() => code[place.dataset.language || "curl"]))),
    pre);
}
