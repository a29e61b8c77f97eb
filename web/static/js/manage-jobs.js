// The jobs of a collection: files that are stored and models that are exchanged, with progress and a stop.

import { call, may } from "./api.js";
import { complain, confirmed, el, plural, when, whole } from "./dom.js";

const LOOK_MS = 1000; // between two looks while a job is under way
const STATES = { waiting: "not started", running: "running", done: "done", failed: "failed" };

/** A card of jobs: `{element, look()}`; `look` reads them at once. */
export function jobsCard(view) {
  const list = el("ul", { class: "jobs" }), error = el("p", { class: "error", role: "alert", hidden: true });
  const card = { view, list, error, timer: null, running: new Set(), drawn: "" };
  view.signal.addEventListener("abort", () => clearTimeout(card.timer), { once: true });
  // Jobs may begin elsewhere, in "Add a file" too: whoever comes back to this part sees them.
  view.addEventListener("query", (event) => { if (event.detail.includes("show") && view.query.show === "manage") look(card); }, { signal: view.signal });
  look(card);
  const element = el("section", { class: "card" }, el("h2", {}, "Jobs"),
    el("p", { class: "hint" }, "What is done to this collection in the background. It goes on when you close the page."), list, error);
  return { element, look: () => look(card) };
}

async function look(card) {
  const { view } = card;
  clearTimeout(card.timer);
  try {
    const { jobs } = (await call("GET", "/jobs", undefined, { signal: view.signal })).data;
    const named = (job) => job.collection === view.info.name || view.info.aliases.includes(job.collection);
    // A file before the collection's own beginning went into another one of this name.
    const mine = jobs.filter((job) => named(job) && (job.kind === "reembed" || job.created >= view.info.created));
    const running = new Set(mine.filter((job) => job.state === "running").map((job) => job.id));
    // Its own description has a worker take up a job whose worker has died.
    await Promise.all([...running].map((id) => call("GET", `/jobs/${id}`, undefined, { signal: view.signal }).catch(() => {})));
    const ended = [...card.running].some((id) => !running.has(id));
    card.running = running;
    complain(card.error, null);
    draw(card, mine);
    if (ended) await view.again();
    if (running.size) card.timer = setTimeout(() => look(card), LOOK_MS);
  } catch (error) {
    if (error.name === "AbortError") return;
    complain(card.error, error);
    card.timer = setTimeout(() => look(card), 5 * LOOK_MS);
  }
}

function draw(card, jobs) {
  const text = JSON.stringify(jobs);
  if (text === card.drawn) return;
  card.drawn = text;
  const focused = card.list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  card.list.replaceChildren(...(jobs.length ? jobs.map((job) => line(card, job)) : [el("li", { class: "hint" }, "None.")]));
  if (focused) card.list.querySelector(`[data-key="${focused}"]`)?.focus();
}

function line(card, job) {
  const title = job.kind === "file" ? `File ${job.file?.name ?? ""}` : `Re-embedding with ${job.model}`;
  const running = job.state === "running", act = running ? "Stop" : "Forget";
  const counts = running && job.total ? `${whole(job.done)} of ${whole(job.total)}` : `${STATES[job.state]}${job.done ? `, ${plural(job.done, "record")}` : ""}`;
  return el("li", {}, el("div", { class: "heading" },
    el("div", {}, el("p", {}, title), el("p", { class: "hint" }, `${counts} · ${when(job.created)}`)),
    may("write") ? el("button", { type: "button", class: "quiet small", "data-key": job.id, "aria-label": `${act}: ${title}`, onclick: () => end(card, job, title) }, act) : null),
  running ? el("progress", { max: String(Math.max(job.total, 1)), value: job.total ? String(job.done) : null, "aria-label": title }) : null,
  job.error ? el("p", { class: job.state === "failed" ? "error" : "note" }, job.error) : null);
}

async function end(card, job, title) {
  const running = job.state === "running";
  if (running && !await confirmed("Stop this job?", job.kind === "file" ? "What it has stored stays." : `${title}: the collection stays as it is.`, "Stop")) return;
  try {
    await call("DELETE", `/jobs/${job.id}`);
    card.running.delete(job.id);
    await look(card);
    if (running) await card.view.again();
  } catch (error) {
    complain(card.error, error);
  }
}
