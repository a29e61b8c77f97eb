// Makes calls with Node's client libraries, and prints what each gave as JSON: as run.py does.
// `node calls/node.js FOLDER`: FOLDER has the node_modules; standard input says what to send.
"use strict";
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");

const library = createRequire(`${process.argv[2]}/`);
const given = JSON.parse(readFileSync(0, "utf8"));
console.log = console.error; // what libraries print is not the answer

const { default: OpenAI } = library("openai");
const { CohereClient, CohereClientV2 } = library("cohere-ai");
const { Ollama } = library("ollama");
const { embed, embedMany, rerank } = library("ai");
const { createOpenAICompatible } = library("@ai-sdk/openai-compatible");
const { createCohere } = library("@ai-sdk/cohere");
const { OpenAIEmbeddings } = library("@langchain/openai");

const openai = (how) =>
  new OpenAI({ baseURL: `${given.url}/v1`, apiKey: "unused", maxRetries: 0, ...how });
const cohere = { environment: given.url, token: "unused" };
const one = new CohereClient(cohere);
const two = new CohereClientV2(cohere);
const ollama = new Ollama({ host: given.url });
const compatible = createOpenAICompatible({ name: "ours", baseURL: `${given.url}/v1` });
const vercelCohere = createCohere({ baseURL: `${given.url}/v2`, apiKey: "unused" });
const numbers = (rows) => Array.from(rows, (row) => Array.from(row));
const pairs = (rows) => rows.map((row) => [row.index, row.relevanceScore]);

async function refusal(call) {
  try {
    return { kinds: [], says: `it was not refused: ${JSON.stringify(await call()).slice(0, 200)}` };
  } catch (error) {
    const kinds = [];
    for (let kind = error.constructor; kind && kind.name; kind = Object.getPrototypeOf(kind)) {
      kinds.push(kind.name);
    }
    const says = `${error.message} ${JSON.stringify(error.body ?? error.responseBody ?? "")}`;
    const status = error.status ?? error.statusCode ?? error.status_code ?? null;
    return { kinds: [...kinds, error.name], says, status };
  }
}

async function tooOften(call) {
  const first = await refusal(call);
  return first.kinds.length ? first : refusal(call);
}

const calls = {
  async openai_floats() {
    const reply = await openai().embeddings.create({ model: "minilm", input: given.texts });
    return { vectors: numbers(reply.data.map((row) => row.embedding)), tokens: reply.usage.total_tokens };
  },
  async openai_asked_floats() {
    const asked = { model: "minilm", input: given.texts, encoding_format: "float" };
    const reply = await openai().embeddings.create(asked);
    return reply.data.map((row) => row.embedding);
  },
  async openai_models() {
    const ids = [];
    for await (const model of openai().models.list()) ids.push(model.id);
    return ids;
  },
  openai_unknown_model: () =>
    refusal(() => openai().embeddings.create({ model: "no-such-model", input: "hello" })),
  openai_wrong_key: () =>
    refusal(() =>
      openai({ baseURL: `${given.locked}/v1`, apiKey: "wrong" }).embeddings.create({
        model: "fake",
        input: "hello",
      }),
    ),
  openai_too_often: () =>
    tooOften(() =>
      openai({ baseURL: `${given.crowded}/v1` }).embeddings.create({
        model: "fake",
        input: given.texts,
      }),
    ),
  cohere_too_often: () =>
    tooOften(() =>
      new CohereClientV2({ ...cohere, environment: given.crowded }).embed(
        { model: "fake", texts: given.texts, inputType: "clustering" },
        { maxRetries: 0 },
      ),
    ),
  ollama_too_often: () =>
    tooOften(() =>
      new Ollama({ host: given.crowded }).embed({ model: "fake", input: given.texts }),
    ),
  async cohere_embed_1() {
    const asked = { model: "minilm", texts: given.texts, inputType: "search_document" };
    return (await one.embed(asked)).embeddings;
  },
  async cohere_embed_2() {
    const kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"];
    const asked = { model: "minilm", texts: given.texts, inputType: "search_query" };
    return (await two.embed({ ...asked, embeddingTypes: kinds })).embeddings;
  },
  async cohere_rerank_1() {
    const asked = { model: "reranker", query: given.query, documents: given.texts };
    return pairs((await one.rerank(asked)).results);
  },
  async cohere_rerank_2() {
    const asked = { model: "reranker", query: given.query, documents: given.texts };
    return pairs((await two.rerank(asked)).results);
  },
  async cohere_tokens() {
    const reply = await one.tokenize({ text: "hello world", model: "minilm" });
    const back = await one.detokenize({ tokens: reply.tokens, model: "minilm" });
    return { tokens: reply.tokens, strings: reply.tokenStrings, text: back.text };
  },
  cohere_unknown_model: () =>
    refusal(() =>
      two.embed({ model: "no-such-model", texts: ["hello"], inputType: "clustering" }),
    ),
  async cohere_key_is_good() {
    return (await one.checkApiKey()).valid;
  },
  async ollama_embed() {
    const reply = await ollama.embed({ model: "minilm", input: given.texts });
    return { vectors: reply.embeddings, tokens: reply.prompt_eval_count };
  },
  async ollama_old_route() {
    return (await ollama.embeddings({ model: "minilm", prompt: given.texts[0] })).embedding;
  },
  async ollama_listed() {
    const [tags, ps] = [await ollama.list(), await ollama.ps()];
    return { tags: tags.models.map((m) => m.model), ps: ps.models.map((m) => m.model) };
  },
  async ollama_shown() {
    return (await ollama.show({ model: "minilm" })).capabilities;
  },
  ollama_unknown_model: () =>
    refusal(() => ollama.embed({ model: "no-such-model", input: "hello" })),
  async vercel_many() {
    const model = compatible.embeddingModel("minilm");
    return (await embedMany({ model, values: given.texts })).embeddings;
  },
  async vercel_one() {
    const model = compatible.embeddingModel("minilm");
    const options = { ours: { dimensions: 64 } };
    return (await embed({ model, value: given.texts[0], providerOptions: options })).embedding;
  },
  vercel_unknown_model: () =>
    refusal(() =>
      embed({ model: compatible.embeddingModel("no-such-model"), value: "hello", maxRetries: 0 }),
    ),
  async vercel_cohere() {
    const model = vercelCohere.embeddingModel("minilm");
    return (await embedMany({ model, values: given.texts })).embeddings;
  },
  async vercel_cohere_rerank() {
    const model = vercelCohere.rerankingModel("reranker");
    const reply = await rerank({ model, query: given.query, documents: given.texts });
    return reply.ranking.map((row) => [row.originalIndex, row.score]);
  },
  async langchain_documents() {
    // What n8n's node "Embeddings OpenAI" is made of.
    const model = new OpenAIEmbeddings({
      model: "minilm",
      apiKey: "unused",
      configuration: { baseURL: `${given.url}/v1` },
    });
    return numbers(await model.embedDocuments(given.texts));
  },
};

async function main() {
  const answers = {};
  for (const [name, call] of Object.entries(calls)) {
    try {
      answers[`node.${name}`] = { gave: await call() };
    } catch (error) {
      answers[`node.${name}`] = { failed: `${error.stack} ${JSON.stringify(error.body ?? "")}` };
    }
  }
  process.stdout.write(JSON.stringify(answers), () => process.exit(0));
}

main();
