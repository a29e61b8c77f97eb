// The Live tab: charts of the last hour, which the service keeps, so a reload shows it at once.

import * as address from "./address.js";
import { call } from "./api.js";
import { chart } from "./charts.js";
import { $, el, field } from "./dom.js";

const SPANS = { 300: "5 minutes", 900: "15 minutes", 3600: "An hour" }, HOUR_S = 3600, DEFAULT_SPAN = "900";
const SOON_MS = 700; // after a reading is due, it is there
const LANES = { interactive: "Interactive", bulk: "Bulk" };
const one = (key, name) => [{ key, name }];
const CHARTS = [
  { title: "Requests", about: "Answers a second; errors are of the whole service.", unit: "rate",
    lines: [{ key: "requests", name: "all" }, { key: "client_errors", name: "4xx" }, { key: "server_errors", name: "5xx" }] },
  { title: "Latency", about: "Within this time 50, 95 and 99 of 100 requests were answered; of one model or lane: had their vectors.", unit: "seconds",
    lines: [{ key: "p50", name: "p50" }, { key: "p95", name: "p95" }, { key: "p99", name: "p99" }] },
  { title: "Texts", about: "Inputs that went through a model, a second.", unit: "rate", lines: one("texts", "a second") },
  { title: "Tokens", about: "Tokens that went through a model, a second.", unit: "rate", lines: one("tokens", "a second") },
  { title: "Queue", about: "Inputs that wait for a model, by lane.", unit: "rate",
    lines: [{ key: "queue_interactive", name: "interactive" }, { key: "queue_bulk", name: "bulk" }] },
  { title: "Wait", about: "Time within which 50 % and 99 % of requests got their first pass.", unit: "seconds",
    lines: [{ key: "wait_p50", name: "p50" }, { key: "wait_p99", name: "p99" }] },
  { title: "Pass fill", about: "How full passes were, as a share of the largest allowed.", unit: "share", top: 1, lines: one("fill", "of a pass") },
  { title: "Cache hits", about: "Share of the vectors that were in the cache; of the whole service.", unit: "share", top: 1, lines: one("cache_hits", "found") },
  { title: "Memory", about: "Memory of the workers and the model processes.", unit: "bytes", lines: one("memory", "in use") },
  { title: "CPU", about: "Cores that the workers and the model processes keep busy.", unit: "rate", lines: one("cores", "cores busy") },
];
const GPU_CHARTS = [
  { title: "GPU use", about: "Share of the time each GPU was busy, with whatever runs on it.", unit: "share", top: 1, kinds: { busy: "" } },
  { title: "GPU memory", about: "Memory of each GPU, with whatever runs on it.", unit: "bytes", kinds: { memory_used: " used", memory: " has" } },
];

let uPlot = null, timer = null, asking = null, place = null;
let kept = null; // what is known: {times, columns, gpus, models, every_s}
let charts = [], drawn = ""; // the GPUs of the charts that are there

const said = el("p", { class: "unseen", role: "status" });
const model = el("select", { id: "live-model" }), lane = el("select", { id: "live-lane" }), span = el("select", { id: "live-span" });

/** Make the tab work; called once. */
export function setUp() {
  lane.append(el("option", { value: "" }, "Both"), ...Object.entries(LANES).map(([value, name]) => el("option", { value }, name)));
  span.append(...Object.entries(SPANS).map(([value, name]) => el("option", { value }, name)));
  $("live-charts").before(el("div", { class: "row live-choices" }, field("Model", model), field("Lane", lane), field("Time", span)), said);
  for (const choice of [model, lane, span]) choice.addEventListener("change", chosen);
  document.addEventListener("visibilitychange", () => { if (place && !document.hidden) follow(); });
}

/** Called whenever the tab is opened, with its address. */
export async function show(where) {
  if (!uPlot) {
    const sheet = el("link", { rel: "stylesheet", href: new URL("../vendor/uplot/uPlot.css", import.meta.url).pathname });
    document.head.append(sheet);
    uPlot = (await import("../vendor/uplot/uPlot.js")).default;
  }
  const now = address.read(); // something may have been chosen meanwhile
  await move(now.tab === "live" ? now : where);
}

/** Show what another address of the tab names. */
export async function move(where) {
  const { query } = where, before = place?.query ?? {};
  place = where;
  lane.value = query.lane in LANES ? query.lane : "";
  span.value = query.span in SPANS ? query.span : DEFAULT_SPAN;
  if (kept === null || query.model !== before.model || query.lane !== before.lane) kept = null;
  models();
  await follow();
}

/** Stop asking; called when the tab is left. */
export function hide() {
  stop();
  place = null;
}

function stop() {
  clearTimeout(timer);
  asking?.abort();
}

function chosen() {
  const query = { model: model.value, lane: lane.value, span: span.value === DEFAULT_SPAN ? "" : span.value };
  const next = { tab: "live", name: null, query: Object.fromEntries(Object.entries(query).filter(([, value]) => value)) };
  address.write(next, { replace: true });
  move(next).catch(failed);
}

/** Offer the models that are known, and the one of the address. */
function models() {
  const wanted = place.query.model ?? "", names = [...new Set([...(kept?.models ?? []), wanted])].filter(Boolean).sort();
  if (names.join("\n") === [...model.options].slice(1).map((option) => option.value).join("\n") && model.value === wanted && model.options.length) return;
  model.replaceChildren(el("option", { value: "" }, "All"), ...names.map((name) => el("option", { value: name }, name)));
  model.value = wanted;
}

/** Ask for what is new, draw it, and go on doing so. Throws what the first answer is. */
async function follow() {
  stop();
  const mine = asking = new AbortController();
  const query = new URLSearchParams(["model", "lane"].flatMap((key) => (place.query[key] ? [[key, place.query[key]]] : [])));
  if (kept?.times.length) query.set("since", kept.times.at(-1));
  let wait = 5000;
  try {
    const { data } = await call("GET", `/metrics/history${`${query}` && `?${query}`}`, undefined, { signal: mine.signal });
    if (mine.signal.aborted) return;
    kept = joined(kept, data);
    wait = 1000 * data.every_s;
    draw();
    problem(kept.times.length > 1 ? null : "Nothing was measured yet: the first numbers come within 10 seconds.");
  } catch (error) {
    if (error.name === "AbortError" || mine.signal.aborted) return;
    if (error.status === 401) throw error;
    failed(error);
  }
  if (!document.hidden) timer = setTimeout(() => follow().catch(failed), wait + SOON_MS);
}

function failed(error) {
  problem([403, 404].includes(error.status) ? `You may not see this service's metrics from here. ${error.message}` : error.message);
}

function problem(text) {
  $("live-error").hidden = text === null;
  $("live-error").textContent = text ?? "";
}

/** What was known and what is new, without what is over an hour old. Between them is a gap if the service was away. */
function joined(old, fresh) {
  if (!old?.times.length || !fresh.times.length) return old?.times.length ? { ...old, models: fresh.models } : fresh;
  const away = fresh.times[0] - old.times.at(-1) > 3 * fresh.every_s;
  const times = [...old.times, ...(away ? [fresh.times[0] - fresh.every_s] : []), ...fresh.times];
  const first = times.findIndex((time) => time > times.at(-1) - HOUR_S), none = (count) => Array(count).fill(null);
  const both = (a, b, key) => [...(a?.[key] ?? none(old.times.length)), ...none(away ? 1 : 0), ...(b?.[key] ?? none(fresh.times.length))].slice(first);
  const all = (a, b) => Object.fromEntries(Object.keys({ ...a, ...b }).map((key) => [key, both(a, b, key)]));
  const gpus = Object.keys({ ...old.gpus, ...fresh.gpus });
  return { ...fresh, times: times.slice(first), columns: all(old.columns, fresh.columns),
    gpus: Object.fromEntries(gpus.map((gpu) => [gpu, all(old.gpus[gpu], fresh.gpus[gpu])])) };
}

function draw() {
  models();
  const gpus = Object.keys(kept.gpus), { times } = kept;
  if (!charts.length || drawn !== gpus.join()) {
    drawn = gpus.join();
    const more = gpus.length ? GPU_CHARTS.map(({ kinds, ...rest }) => ({ ...rest,
      lines: gpus.flatMap((gpu) => Object.entries(kinds).map(([kind, word]) => ({ key: `${kind} ${gpu}`, name: `GPU ${gpu}${word}` }))) })) : [];
    charts = [...CHARTS, ...more].map((each) => chart(uPlot, each, (text) => { said.textContent = text; }));
    $("live-charts").replaceChildren(...charts.map((each) => each.element));
  }
  if (!times.length) return;
  const columns = { ...kept.columns };
  for (const gpu of gpus) for (const [kind, column] of Object.entries(kept.gpus[gpu])) columns[`${kind} ${gpu}`] = column;
  const from = Math.max(times.at(-1) - Number(span.value), Math.min(times[0], times.at(-1) - 60));
  for (const each of charts) each.draw(times, columns, from);
}
