// Sends a file to a collection, some texts at a time, and shows how far it is.

import { call, patiently } from "./api.js";
import { complain, el, plural, toast, whole } from "./dom.js";
import { idsFor } from "./ids.js";
import { lastOfEach, rowsOf } from "./rows.js";

const BATCH = 32, BATCH_CHARS = 4 << 20; // of one request: so many texts, and hardly more characters
const MOST_BYTES = 50 << 20; // of a file: as 1.2 million rows read in 11 s and 500 MB, on two busy cores
let running = 0;

const ask = (event) => event.preventDefault(); // the browser's own question, whether to leave

/** The card a file is chosen or dropped in: `{card, stop}`. `done()` is called after texts were stored. */
export function uploadCard(collection, done) {
  const input = el("input", { type: "file", id: "file", accept: ".csv,.jsonl,.ndjson,.txt" });
  const bar = el("progress", { max: "1", value: "0", "aria-label": "Texts stored" });
  const note = el("p", { class: "hint", "aria-live": "polite" });
  const stop = el("button", { type: "button", class: "quiet small" }, "Stop");
  const progress = el("div", { class: "progress", hidden: true }, bar, el("div", { class: "row spread" }, note, stop));
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const card = el("div", { class: "card drop" }, el("h2", {}, "Add a file"),
    el("label", { for: "file" }, "CSV with commas, JSONL or TXT in UTF-8, a text a row; other columns become metadata"),
    input, progress, error);
  const tell = ({ stored, all, rate, problem }) => {
    bar.max = all;
    bar.value = stored;
    const more = problem ? ` · waiting ${problem.retryAfter} s: ${problem.message}` : rate ? ` · ${whole(Math.round(rate))} a second` : "";
    note.textContent = `${whole(stored)} of ${plural(all, "text")}${more}`;
  };
  let controller = null;
  const start = async (files) => {
    complain(error, null);
    bar.removeAttribute("value"); // it moves by itself
    note.textContent = `Reading ${files[0].name}`;
    progress.hidden = false;
    controller = new AbortController();
    stop.hidden = true;
    input.disabled = true;
    if (!running++) addEventListener("beforeunload", ask);
    const sent = { stored: 0 };
    let remark = "";
    try {
      const rows = await read(files);
      stop.hidden = false;
      remark = await send(collection, rows, idsFor(files[0].name), sent, tell, controller.signal);
      note.textContent += remark;
    } catch (problem) {
      progress.hidden = !sent.line;
      complain(error, ending(problem, sent));
    } finally {
      if (!--running) removeEventListener("beforeunload", ask);
      input.disabled = false;
      input.value = "";
      stop.hidden = true;
    }
    if (sent.stored) await done();
    if (!error.hidden && !card.checkVisibility()) toast(error.textContent);
    if (remark || !error.hidden) card.scrollIntoView({ block: "nearest" }); // below the map
  };
  stop.onclick = () => controller.abort();
  input.addEventListener("change", () => input.files.length && start([...input.files]));
  card.addEventListener("dragover", (event) => { event.preventDefault(); event.stopPropagation(); card.classList.add("over"); });
  card.addEventListener("dragleave", () => card.classList.remove("over"));
  card.addEventListener("drop", (event) => {
    card.classList.remove("over");
    event.preventDefault();
    if (input.disabled) toast("A file is being stored; drop the next one after it.");
    else if (event.dataTransfer.files.length) start([...event.dataTransfer.files]);
  });
  return { card, stop: () => controller?.abort() };
}

// A file that is dropped beside the card would take the page's place.
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "none";
});

/** The rows of the one file that is given, all of it checked. */
async function read(files) {
  if (files.length > 1) throw new Error("Nothing is stored: give one file at a time.");
  const [file] = files;
  if (file.size > MOST_BYTES) throw new Error(`Nothing of ${file.name} is stored: it has more than ${MOST_BYTES >> 20} MB; send it by embed_file.py, or in parts.`);
  const bytes = await file.arrayBuffer().catch(() => {
    throw new Error(`Nothing of ${file.name} is stored: the browser cannot read it; choose a file (no folder) that no other program changes.`);
  });
  return rowsOf(file.name, new Uint8Array(bytes));
}

/** Store the rows and keep in `sent` how far it is; resolves to what else is to be said of them. */
async function send(collection, all, idOf, sent, tell, signal) {
  const rows = lastOfEach(all), started = performance.now();
  let truncated = 0;
  sent.all = rows.length;
  tell(sent);
  for (let part; (part = batch(rows, sent.stored)).length; tell({ ...sent, rate: sent.stored / ((performance.now() - started) / 1000) })) {
    sent.line = part[0].line;
    const [texts, metadata] = ["text", "metadata"].map((key) => part.map((row) => row[key]));
    const body = { collection, ids: part.map(idOf), texts, metadata, create: false };
    const { headers } = await patiently([429, 503], () => call("POST", "/embed-and-store", body, { signal }), (problem) => tell({ ...sent, problem }), signal);
    truncated += Number(headers.get("X-Truncated-Inputs") || 0);
    sent.stored += part.length;
  }
  const dropped = all.length - rows.length;
  return (dropped ? ` · ${plural(dropped, "row")} left out: a later row has the same id` : "")
    + (truncated ? ` · ${whole(truncated)} longer than the model takes, and cut` : "");
}

/** The next rows for one request. */
function batch(rows, from) {
  let to = from;
  for (let chars = 0; to < rows.length && to - from < BATCH && chars < BATCH_CHARS; to++) chars += rows[to].text.length;
  return rows.slice(from, to);
}

/** What to say of an upload that ended early: why, how much is stored, and how to go on. */
function ending(problem, { stored, all, line }) {
  if (!line) return problem;
  const why = problem.name === "AbortError" ? "Stopped." : `From line ${whole(line)}: ${problem.message}`;
  return new Error(`${why} ${whole(stored)} of ${plural(all, "text")} are stored; give the same file again to go on: none is stored twice.`);
}
