// The call that a person just made, as they would write it in their own program with each client.

import { copyButton, el } from "./dom.js";

const KEY = "EMBEDDING_API_KEY"; // what the code takes the key from: no key is ever written into it
const SIDES = { right: "END", left: "START", error: "NONE" }; // as Cohere names what `truncate` means
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
/** A text, number, truth, list or object as Python writes it. */
function python(value, depth = 1) {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = Array.isArray(value) ? value.map((one) => python(one, depth + 1))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}", indent = "    ".repeat(depth);
  return inner.length ? `${open}\n${inner.map((one) => `    ${indent}${one},\n`).join("")}${indent}${close}` : open + close;
}

/** How TEI is told what to do with a text that is too long. */
function cutting(truncate) {
  if (!truncate) return {};
  return truncate === "error" ? { truncate: false } : { truncate: true, truncation_direction: truncate };
}

/** A call with named arguments; those that are undefined are left out. */
const invoke = (name, given) => `${name}(\n${Object.entries(given).filter(([, value]) => value !== undefined)
  .map(([argument, value]) => `    ${argument}=${python(value)},\n`).join("")})`;

const curl = ({ origin, key }, path, body) => `curl -s ${origin}${path} \\\n  -H 'Content-Type: application/json' \\\n`
  + (key ? `  -H "Authorization: Bearer $${KEY}" \\\n` : "") + `  -d ${shell(JSON.stringify(body, null, 2))}`;

const requests = ({ origin, key }, path, body, result) => `${key ? "import os\n\n" : ""}import requests\n\nreply = requests.post(\n    ${python(origin + path)},\n`
  + (key ? `    headers={"Authorization": "Bearer " + os.environ["${KEY}"]},\n` : "")
  + `    json=${python(body)},\n)\nreply.raise_for_status()\n${result}\n`;

/** A program with a client: its import, how it is made, the call and what is read of the reply. */
const program = ({ key }, imported, made, call, result) => `${key ? "import os\n\n" : ""}${imported}\n\nclient = ${made}\nreply = ${call}\n${result}\n`;
const secret = ({ key }) => (key ? `os.environ["${KEY}"]` : '"unused"');
const bearer = ({ key }) => (key ? `, headers={"Authorization": "Bearer " + os.environ["${KEY}"]}` : "");

/** How to embed `texts`, by client. `dimensions` and `truncate` are null where they were not set;
    `key` says that a key is needed. A client that cannot ask for this is left out. */
export function embedCalls(asked) {
  const { origin, model, texts, dimensions, truncate, prompts = {} } = asked;
  const size = dimensions ? { dimensions } : {}, cut = truncate ? { truncate } : {};
  const body = { model, input: texts, ...size, ...cut };
  // Cohere's client has to name a role; this one has no prompt, like a call that names none.
  const role = Object.keys(prompts).length ? ["clustering", "classification"].find((name) => !(name in prompts)) : "search_document";
  const calls = {
    curl: curl(asked, "/v1/embeddings", body),
    requests: requests(asked, "/v1/embeddings", body, 'vectors = [row["embedding"] for row in reply.json()["data"]]'),
    openai: program(asked, "from openai import OpenAI", `OpenAI(base_url=${python(`${origin}/v1`)}, api_key=${secret(asked)})`,
      invoke("client.embeddings.create", { model, input: texts, ...size, extra_body: truncate ? cut : undefined }),
      "vectors = [row.embedding for row in reply.data]"),
    TEI: program(asked, "from huggingface_hub import InferenceClient",
      `InferenceClient(model=${python(`${origin}/embed?model_id=${encodeURIComponent(model)}`)}${asked.key ? `, token=${secret(asked)}` : ""})`,
      invoke("client.feature_extraction", { text: texts, ...size, ...cutting(truncate) }), "vectors = reply.tolist()"),
  };
  if (role) calls.cohere = program(asked, "import cohere", `cohere.ClientV2(base_url=${python(origin)}, api_key=${secret(asked)})`,
    invoke("client.embed", { model, texts, input_type: role, output_dimension: dimensions ?? undefined, truncate: SIDES[truncate] }),
    "vectors = reply.embeddings.float_");
  if (truncate !== "left") calls.ollama = program(asked, "import ollama", `ollama.Client(host=${python(origin)}${bearer(asked)})`,
    invoke("client.embed", { model, input: texts, ...size, truncate: truncate ? truncate !== "error" : undefined }),
    "vectors = reply.embeddings");
  return calls;
}

/** How to rank `texts` by how well they answer `query`, by client. */
export function rerankCalls(asked) {
  const { origin, model, query, texts, truncate } = asked, cut = truncate ? { truncate } : {};
  const body = { model, query, documents: texts, ...cut };
  const best = 'best = [(row["index"], row["relevance_score"]) for row in reply.json()["results"]]';
  const calls = { curl: curl(asked, "/rerank", body), requests: requests(asked, "/rerank", body, best) };
  calls.TEI = requests(asked, "/rerank", { model, query, texts, ...cutting(truncate) }, 'best = [(row["index"], row["score"]) for row in reply.json()]');
  // Cohere's client cannot say how a document is cut.
  if (!truncate) calls.cohere = program(asked, "import cohere", `cohere.ClientV2(base_url=${python(origin)}, api_key=${secret(asked)})`,
    invoke("client.rerank", { model, query, documents: texts }), "best = [(row.index, row.relevance_score) for row in reply.results]");
  return calls;
}

/** How to get the sparse terms of `texts`, by client. */
export function sparseCalls(asked) {
  const { model, texts, truncate } = asked;
  const body = { model, texts, outputs: ["sparse"], sparse_format: "terms", ...(truncate ? { truncate } : {}) };
  return {
    curl: curl(asked, "/embed", body),
    requests: requests(asked, "/embed", body, 'terms = reply.json()["sparse"]'),
    TEI: requests(asked, "/embed_sparse", { model, inputs: texts, ...cutting(truncate) },
      'terms = [{row["index"]: row["value"] for row in rows} for rows in reply.json()]'),
  };
}

/** Show the calls in `place`, one at a time; what was chosen stays chosen. */
export function showSnippets(place, code) {
  const wanted = place.dataset.language, chosen = wanted in code ? wanted : Object.keys(code)[0];
  const pre = el("pre", { tabindex: "0", "aria-label": "The same call as code" }, el("code", {}, code[chosen]));
  const buttons = Object.keys(code).map((name) => el("button", {
    type: "button", class: "choice", "aria-pressed": String(name === chosen),
    onclick: () => { place.dataset.language = name; showSnippets(place, code); place.querySelector("[aria-pressed=true]").focus(); },
  }, name));
  place.replaceChildren(
    el("div", { class: "heading" }, el("h2", {}, "The same call in your program"), copyButton(() => code[chosen])),
    el("div", { class: "choices" }, buttons), pre);
}
