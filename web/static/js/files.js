// Adds a file to the opened collection: given, shown as it will be stored, and stored by a job of the
// service, which goes on when the page is closed.

import { call, may } from "./api.js";
import { complain, el, toast } from "./dom.js";
import { fileJobs } from "./files-jobs.js";
import { showPreview } from "./files-preview.js";
import { sendFile, sizeOf } from "./files-send.js";

const kept = new Map(); // of each collection: its part, which goes on while others are looked at
let given = null; // a file that was dropped where no collection was open, for the next that opens

/** Have the next part that is made take this file. */
export const giveNext = (file) => { given = file; };

/** The part that adds files to a collection; the same one whenever the collection is shown. */
export function addPart(view) {
  const key = `${view.info.name} ${view.info.created}`;
  if (!kept.has(key)) kept.set(key, new Adding());
  const part = kept.get(key);
  part.open(view);
  if (given) part.take([given]);
  given = null;
  return part.element;
}

class Adding {
  constructor() {
    this.input = el("input", { type: "file", id: "file", accept: ".csv,.tsv,.tab,.json,.jsonl,.ndjson,.parquet,.txt" });
    this.error = el("p", { class: "error", role: "alert", hidden: true });
    this.stage = el("div", { class: "stage", "aria-live": "polite" });
    this.card = el("div", { class: "card drop" },
      el("h2", {}, "Add a file"),
      el("label", { for: "file" }, "CSV, TSV, JSON, JSONL, Parquet, or TXT with a text a line. You see its rows before they are stored."),
      this.input, this.error, this.stage);
    this.jobs = el("div", {});
    this.element = el("div", { class: "adding" }, this.card, this.jobs);
    this.input.addEventListener("change", () => this.input.files.length && this.take([...this.input.files]));
    droppable(this.card, (files) => this.take(files));
  }

  /** The collection is shown, perhaps again. */
  open(view) {
    this.view = view;
    this.list = fileJobs(view, { look: (job) => this.preview(job).catch((error) => this.tell(error)), isShown: (job) => this.shown === job.id });
    this.jobs.replaceChildren(this.list.element);
  }

  /** Take a file: send it, and show what will be stored. */
  async take(files) {
    if (this.sending) return toast("A file is being sent; give the next one after it.");
    complain(this.error, null);
    if (files.length > 1) return this.tell(new Error("Give one file at a time."));
    const [file] = files, stop = new AbortController(), path = this.view.path;
    const bar = el("progress", { max: "1", value: "0", "aria-label": "File sent" });
    const note = el("p", { class: "hint" }, `Sending ${file.name} (${sizeOf(file.size)})`);
    this.stage.replaceChildren(el("div", { class: "progress" }, bar,
      el("div", { class: "row spread" }, note, el("button", { type: "button", class: "quiet small", onclick: () => stop.abort() }, "Stop"))));
    this.input.disabled = this.sending = true;
    addEventListener("beforeunload", ask);
    try {
      await call("GET", path); // asks to sign in, if that is what it takes, before the file is sent
      const job = await sendFile(`${path}/files`, file, stop.signal, (share) => {
        bar.value = share;
        if (share === 1) note.textContent = `Reading ${file.name}`;
      });
      await this.preview(job);
    } catch (error) {
      this.stage.replaceChildren();
      this.shown = null;
      if (error.name !== "AbortError") this.tell(error);
    } finally {
      this.input.disabled = this.sending = false;
      this.input.value = "";
      removeEventListener("beforeunload", ask);
    }
  }

  /** Show what will be stored of a file that waits. */
  async preview(job) {
    complain(this.error, null);
    this.shown = job.id;
    const end = () => {
      this.shown = null;
      this.stage.replaceChildren();
      return this.list.look();
    };
    await showPreview(this.stage, job, {
      stored: async () => {
        await end();
        this.jobs.scrollIntoView({ block: "nearest" });
      },
      discarded: end,
      refused: async (error) => { // it cannot be read: it is of no use
        this.tell(error);
        await call("DELETE", `/jobs/${job.id}`).catch(() => {});
        await end();
      },
    });
    await this.list.look();
    this.card.scrollIntoView({ block: "nearest" });
  }

  tell(error) {
    complain(this.error, error);
    if (this.card.checkVisibility()) this.error.scrollIntoView({ block: "nearest" });
    else toast(error.message);
  }
}

const ask = (event) => event.preventDefault(); // the browser's own question, whether to leave

/** Have files dropped on an element go to `take(files)`. */
function droppable(element, take) {
  element.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.stopPropagation();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    element.classList.remove("over");
    event.preventDefault();
    if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  });
}

// A file that is dropped elsewhere would take the page's place.
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "none";
});

/** A way from a file to a collection of its name, for where there is none: `create(name)` makes and
    opens it, and its part is then given the file. */
export function fileOffer(create) {
  if (!may("write")) return null;
  const input = el("input", { type: "file", id: "first-file", accept: ".csv,.tsv,.tab,.json,.jsonl,.ndjson,.parquet,.txt" });
  const name = el("input", { id: "first-name", required: true, maxlength: "64", autocomplete: "off", spellcheck: "false" });
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const button = el("button", { type: "submit" }, "Create it and look at the file");
  const named = el("div", { class: "row", hidden: true }, el("div", {}, el("label", { for: "first-name" }, "Name of the collection"), name), button);
  const form = el("form", { class: "drop first-file" }, el("label", { for: "first-file" }, "Drop a file of yours here, or choose one"), input, named, error);
  let file = null;
  const take = ([first, ...more]) => {
    if (more.length) return complain(error, new Error("Give one file at a time."));
    file = first;
    name.value = nameOf(first.name);
    named.hidden = false;
    complain(error, null);
    button.focus();
  };
  input.addEventListener("change", () => input.files.length && take([...input.files]));
  droppable(form, take);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    giveNext(file);
    try {
      await create(name.value.trim());
    } catch (problem) {
      giveNext(null);
      complain(error, problem);
    } finally {
      button.disabled = false;
    }
  });
  return form;
}

/** A name that a collection may have, made of a file's. */
const nameOf = (name) => name.replace(/\.[^.]*$/, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+|-+$/g, "").slice(0, 64) || "texts";

