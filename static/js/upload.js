// Sends a file to a collection, some texts at a time, and shows how far it is.

import { call, patiently } from "./api.js";
import { complain, el, plural, whole } from "./dom.js";
import { rowsOf } from "./rows.js";

const BATCH = 32;

// crypto.randomUUID() is not there where the page came over plain HTTP from another machine.
const randomId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** The card a file is chosen or dropped in. `done()` is called after texts were stored. */
export function uploadCard(collection, done) {
  const input = el("input", { type: "file", id: "file", accept: ".csv,.jsonl,.ndjson,.txt" });
  const bar = el("progress", { max: "1", value: "0", "aria-label": "Texts stored" });
  const note = el("p", { class: "hint", "aria-live": "polite" });
  const stop = el("button", { type: "button", class: "quiet small" }, "Stop");
  const progress = el("div", { class: "progress", hidden: true }, bar, el("div", { class: "row spread" }, note, stop));
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const card = el("div", { class: "card drop" }, el("h2", {}, "Add a file"),
    el("label", { for: "file" }, "CSV, JSONL or TXT, a text a row; other columns become metadata"),
    input, progress, error);
  const start = async (file) => {
    const controller = new AbortController();
    stop.onclick = () => controller.abort();
    stop.hidden = false;
    progress.hidden = false;
    input.disabled = true;
    complain(error, null);
    const tell = (count, all, rate, problem) => {
      bar.max = Math.max(all, 1);
      bar.value = count;
      const more = problem ? ` · waiting ${problem.retryAfter} s: ${problem.message}` : rate ? ` · ${whole(Math.round(rate))} a second` : "";
      note.textContent = `${whole(count)} of ${plural(all, "text")}${more}`;
    };
    try {
      await send(collection, rowsOf(file.name, await file.text()), tell, controller.signal);
    } catch (problem) {
      complain(error, problem.name === "AbortError" ? new Error("Stopped. What was stored before stays.") : problem);
    } finally {
      input.disabled = false;
      input.value = "";
      stop.hidden = true;
      done();
    }
  };
  input.addEventListener("change", () => input.files[0] && start(input.files[0]));
  card.addEventListener("dragover", (event) => { event.preventDefault(); card.classList.add("over"); });
  card.addEventListener("dragleave", () => card.classList.remove("over"));
  card.addEventListener("drop", (event) => {
    event.preventDefault();
    card.classList.remove("over");
    if (event.dataTransfer.files[0] && !input.disabled) start(event.dataTransfer.files[0]);
  });
  return card;
}

async function send(collection, rows, tell, signal) {
  if (!rows.length) throw new Error("There is no text in this file.");
  const started = performance.now();
  tell(0, rows.length, 0);
  for (let at = 0; at < rows.length; at += BATCH) {
    const part = rows.slice(at, at + BATCH);
    // Ids make a repeat harmless: what was stored is stored over, not twice.
    const [texts, metadata] = ["text", "metadata"].map((key) => part.map((row) => row[key]));
    const body = { collection, texts, metadata, ids: part.map((row) => row.id ?? randomId()), create: false };
    await patiently([429, 503], () => call("POST", "/embed-and-store", body, { signal }), (error) => tell(at, rows.length, 0, error), signal);
    tell(at + part.length, rows.length, (at + part.length) / ((performance.now() - started) / 1000));
  }
}
