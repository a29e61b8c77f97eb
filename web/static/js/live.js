// The Live tab: reads /metrics each second and shows what changed since.

import { call } from "./api.js";
import { chart } from "./charts.js";
import { $, complain } from "./dom.js";

const EVERY_MS = 1000, POINTS = 120;
let timer = null, last = null, charts = null;

/** Make the tab work; called once. */
export function setUp() {
  const two = (value) => (value >= 100 ? value.toFixed(0) : value.toFixed(1));
  charts = {
    requests: chart("Requests", "a second", POINTS, two),
    texts: chart("Texts", "a second", POINTS, two),
    latency: chart("Latency", "ms", POINTS, two),
    queue: chart("Queue", "texts", POINTS, (value) => value.toFixed(0)),
    batch: chart("Batch fill", "texts a pass", POINTS, two),
    cache: chart("Cache hits", "%", POINTS, (value) => value.toFixed(0)),
  };
  $("live-charts").replaceChildren(...Object.values(charts).map((one) => one.element));
}

/** Called whenever the tab is opened. */
export function show() {
  hide();
  if (last) for (const one of Object.values(charts)) one.push(null); // nobody looked meanwhile: a gap
  last = null;
  return tick();
}

/** Stop asking; called when the tab is left. */
export function hide() {
  clearTimeout(timer);
  timer = null;
}

async function tick() {
  try {
    const text = (await call("GET", "/metrics", undefined, { accept: "text/plain" })).data;
    const now = { at: performance.now(), ...sums(text) };
    if (last) move(last, now);
    last = now;
    complain($("live-error"), null);
  } catch (error) {
    complain($("live-error"), error);
    if (error.status === 401) return;
  }
  timer = setTimeout(tick, EVERY_MS);
}

function move(before, now) {
  const seconds = (now.at - before.at) / 1000;
  const grown = (name) => Math.max(0, (now[name] ?? 0) - (before[name] ?? 0));
  const share = (part, of) => (of > 0 ? part / of : null);
  const requests = Math.max(0, grown("request_seconds_count") - grown("own_count"));
  charts.requests.push(requests / seconds);
  charts.texts.push(grown("texts_total") / seconds);
  charts.latency.push(share(1000 * Math.max(0, grown("request_seconds_sum") - grown("own_sum")), requests));
  charts.queue.push(now.queue_texts ?? 0);
  charts.batch.push(share(grown("pass_texts_sum"), grown("pass_texts_count")));
  charts.cache.push(share(100 * grown("cache_hits"), grown("cache_total")));
}

/** Sums of each series of Prometheus's text format, by name without the common start. */
export function sums(text) {
  const found = {};
  const add = (name, value) => { found[name] = (found[name] ?? 0) + value; };
  for (const line of text.split("\n")) {
    const match = /^embedding_([a-z_]+)(\{.*\})? (\S+)$/.exec(line);
    if (!match || match[1].endsWith("_bucket")) continue;
    const [, name, labels = "", value] = match;
    add(name, Number(value));
    if (name === "cache_total" && labels.includes('outcome="hit"')) add("cache_hits", Number(value));
    // What this page asks for itself is no work of the service's.
    if (name.startsWith("request_seconds_") && labels.includes('route="/metrics"')) add(name.replace("request_seconds", "own"), Number(value));
  }
  return found;
}
