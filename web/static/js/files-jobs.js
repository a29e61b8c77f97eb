// The files of a collection that wait, are being stored, or were: how far each is, what was rejected.

import { call } from "./api.js";
import { confirmed, el, plural, toast, whole } from "./dom.js";
import { sizeOf } from "./files-send.js";

const LOOK_MS = 1000; // between two looks while a file is being stored
const ENDED_SHOWN = 5;

/** The list of a collection's files: `{element, look()}`. Of `actions`, `look(job)` shows one that waits, and
    `isShown(job)` tells whether it is shown now. */
export function fileJobs(view, actions) {
  const element = el("div", { class: "file-jobs" });
  let timer = null, before = null; // the state of each job at the last look
  const look = async () => {
    clearTimeout(timer);
    if (view.signal.aborted) return;
    try {
      const { jobs } = (await call("GET", "/jobs", undefined, { signal: view.signal })).data;
      const mine = jobs.filter((job) => job.kind === "file" && job.created >= view.info.created && (job.collection === view.info.name || view.info.aliases.includes(job.collection)));
      const under = mine.filter((one) => one.state === "running");
      // Its own description has a worker take up a job whose worker has died.
      await Promise.all(under.map((job) => call("GET", `/jobs/${job.id}`, undefined, { signal: view.signal }).catch(() => {})));
      draw(mine);
      const now = new Map(mine.map((job) => [job.id, job.state])), was = before ?? now;
      before = now;
      // A short one may never be seen running, and a stopped one is gone.
      const stored = (id) => was.get(id) !== now.get(id) && (was.get(id) === "running" || ["done", "failed"].includes(now.get(id)));
      if ([...was.keys(), ...now.keys()].some(stored)) await view.again();
      if (under.length) timer = setTimeout(look, LOOK_MS);
    } catch (error) {
      if (error.name !== "AbortError") timer = setTimeout(look, 5 * LOOK_MS);
    }
  };
  const forget = async (job) => {
    try {
      await call("DELETE", `/jobs/${job.id}`);
    } catch (error) {
      if (error.status !== 404) return toast(error.message);
    }
    await look(); // it may have been running: then the collection has more by now
  };
  const stop = async (job) => {
    if (await confirmed(`Stop storing ${job.file.name}?`, "The rows that are stored so far stay. Give the same file again to go on: none is stored twice.", "Stop")) await forget(job);
  };
  const cards = new Map(); // by the job's id; one that is shown already is changed in place
  const draw = (jobs) => {
    const ended = jobs.filter((job) => job.state === "done" || job.state === "failed").slice(0, ENDED_SHOWN);
    const wanted = [...jobs.filter((job) => job.state === "running"), ...jobs.filter((job) => job.state === "waiting" && !actions.isShown(job)), ...ended];
    for (const id of cards.keys()) if (!wanted.some((job) => job.id === id)) cards.delete(id);
    for (const job of wanted) {
      const before = cards.get(job.id);
      if (before?.state === job.state) before.update(job);
      else cards.set(job.id, MAKE[job.state](job, { ...actions, forget, stop, map: () => view.change({ show: "map" }) }));
    }
    const places = wanted.map((job) => cards.get(job.id).element);
    if (places.length !== element.children.length || places.some((one, i) => one !== element.children[i])) element.replaceChildren(...places);
  };
  view.addEventListener("query", (event) => { if (event.detail.includes("show")) look(); }, { signal: view.signal });
  view.signal.addEventListener("abort", () => clearTimeout(timer));
  look();
  return { element, look };
}

const button = (text, onclick) => el("button", { type: "button", class: "quiet small", onclick }, text);
const MAKE = { waiting, running, done, failed };

function made(state, job, body, buttons, update = () => {}) {
  const element = el("section", { class: "card file-job", "data-state": state, "aria-label": job.file.name },
    el("div", { class: "heading" }, el("h3", {}, job.file.name), el("div", { class: "actions" }, buttons)), body);
  return { state, element, update };
}

function waiting(job, { look, forget }) {
  return made("waiting", job, el("p", { class: "hint" }, `${sizeOf(job.file.bytes)}, sent and not stored. It is kept for a day.`),
    [button("Look at it", () => look(job)), button("Discard", () => forget(job))]);
}

function running(job, { stop }) {
  const bar = el("progress", { max: "1", "aria-label": `Rows of ${job.file.name} stored` });
  const said = el("p", { class: "hint" }), waits = el("p", { class: "note" });
  const update = ({ done: at, total, error, file }) => {
    bar.value = total ? at / total : 0;
    said.textContent = [`${whole(at)} of ${file.exact ? "" : "about "}${plural(total, "row")}`,
      file.rejected ? `${whole(file.rejected)} could not be stored` : null,
      file.rate >= 1 ? `${whole(Math.round(file.rate))} a second` : null,
      file.left_s ? `${timeOf(file.left_s)} left` : null].filter(Boolean).join(" · ");
    waits.textContent = error ? `Waiting: ${error}` : "";
  };
  update(job);
  return made("running", job, el("div", { class: "progress" }, bar, said, waits), [button("Stop", () => stop(job))], update);
}

function timeOf(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

function done(job, { forget, map }) {
  const { file } = job;
  const notes = [
    file.repeated ? `${plural(file.repeated, "row")} had an id that came before in the file: the later one stays.` : null,
    file.truncated ? `${plural(file.truncated, "text")} longer than the model takes ${file.truncated === 1 ? "was" : "were"} cut.` : null,
    file.rejected ? `${plural(file.rejected, "row")} could not be stored.` : null,
  ].filter(Boolean);
  return made("done", job, el("div", { role: "status" }, el("p", { class: "well" }, `${plural(file.stored, "row")} stored.`), notes.map((text) => el("p", { class: "hint" }, text))),
    [file.stored ? button("See the map", map) : null, file.rejected ? button("Download rejected rows", () => download(job)) : null, button("Dismiss", () => forget(job))]);
}

function failed(job, { forget }) {
  return made("failed", job, el("div", {}, el("p", { class: "error", role: "alert" }, `${job.error}. ${plural(job.file.stored, "row")} stored before.`)),
    [job.file.rejected ? button("Download rejected rows", () => download(job)) : null, button("Dismiss", () => forget(job))]);
}

/** Save the rows that were not stored as JSONL: line, reason, row. */
async function download(job) {
  const parts = [];
  try {
    for (let offset = 0; offset !== null;) {
      const { rejects, next_offset: next } = (await call("GET", `/jobs/${job.id}/rejects?offset=${offset}`)).data;
      parts.push(...rejects.map((one) => `${JSON.stringify(one)}\n`));
      offset = next;
    }
  } catch (error) {
    return toast(error.message);
  }
  const url = URL.createObjectURL(new Blob(parts, { type: "application/jsonl" }));
  el("a", { href: url, download: `${job.file.name}.rejects.jsonl` }).click();
  URL.revokeObjectURL(url);
}
