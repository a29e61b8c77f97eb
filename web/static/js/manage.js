// What is done to a collection as a whole: export, other names, jobs, another model, deletion.

import { call, may, patiently } from "./api.js";
import { complain, confirmed, during, el, plural, toast, whole } from "./dom.js";
import { filterOf, partsOf, read } from "./filters.js";
import { jobsCard } from "./manage-jobs.js";
import { refreshModels } from "./pick.js";
import { exportAll } from "./records-export.js";

const NUMBER_BYTES = 11; // of a vector's number as JSON, about

/** The cards of a collection; who may only read sees the export, the names and the jobs. */
export function managePart(view) {
  const jobs = jobsCard(view);
  return el("div", { class: "manage" }, exportCard(view), aliasCard(view), jobs.element,
    ...(may("write") ? [reembedCard(view, jobs), deleteCard(view)] : []));
}

const card = (title, hint, ...children) => el("section", { class: "card" }, el("h2", {}, title), hint ? el("p", { class: "hint" }, hint) : null, ...children);
const alertLine = () => el("p", { class: "error", role: "alert", hidden: true });
const check = (input, text) => el("label", { class: "check" }, input, text);

function exportCard(view) {
  const vectors = el("input", { type: "checkbox" }), matching = el("input", { type: "checkbox" });
  const onlyMatching = check(matching, "Only the records that match the filter");
  const size = el("p", { class: "hint" }), said = el("p", { class: "hint", role: "status" }), error = alertLine();
  const bar = el("progress", { max: "1", value: "0", "aria-label": "Export", hidden: true });
  const start = el("button", { type: "button", onclick: () => run() }, "Export"), stop = el("button", { type: "button", class: "quiet", hidden: true }, "Stop");
  const update = () => {
    onlyMatching.hidden = !view.query.filter;
    matching.checked = Boolean(view.query.filter);
    const bytes = view.info.count * view.info.dimension * NUMBER_BYTES;
    size.textContent = bytes > 1e9 ? `The file will have about ${(bytes / 1e9).toFixed(1)} GB, which this browser has to hold. On the server, python -m store export writes the same.` : "";
    size.hidden = !vectors.checked || !size.textContent;
    start.disabled = !view.info.count;
  };
  async function run() {
    const stopper = new AbortController();
    const leave = () => stopper.abort();
    stop.onclick = leave;
    view.signal.addEventListener("abort", leave, { once: true });
    complain(error, null);
    [start.disabled, stop.hidden, bar.hidden, said.textContent] = [true, false, false, ""];
    try {
      const filter = matching.checked && view.query.filter ? filterOf(partsOf(read(view.query.filter))) : null;
      const total = filter ? (await call("POST", `${view.path}/vectors/count`, { filter }, { signal: stopper.signal })).data.count : view.info.count;
      const progress = (count) => {
        bar.value = count / Math.max(total, count);
        said.textContent = `${whole(count)} of ${plural(total, "record")}`;
      };
      const done = await exportAll(view, { filter, vectors: vectors.checked, signal: stopper.signal, progress });
      said.textContent = `${plural(done, "record")} saved as ${view.info.name}.jsonl`;
    } catch (wrong) {
      if (wrong.name === "AbortError") said.textContent = "Stopped: nothing is saved.";
      else complain(error, wrong);
    } finally {
      [start.disabled, stop.hidden, bar.hidden] = [false, true, true];
    }
  }
  vectors.addEventListener("change", update);
  view.addEventListener("query", (event) => { if (event.detail.includes("filter")) update(); }, { signal: view.signal });
  view.addEventListener("info", update, { signal: view.signal });
  update();
  return card("Export", "A file with one JSON object a line: id, text and metadata. It can be added to a collection again; with vectors, python -m store import makes a collection of it.",
    check(vectors, "With vectors"), onlyMatching, size, el("div", { class: "actions" }, start, stop), bar, said, error);
}

function aliasCard(view) {
  const list = el("ul", { class: "aliases" }), error = alertLine();
  const input = el("input", { id: "alias-name", maxlength: "255", autocomplete: "off", spellcheck: "false", required: true, placeholder: "latest" });
  const form = el("form", { class: "row", hidden: !may("write") }, el("div", {}, el("label", { for: "alias-name" }, "New alias"), input), el("button", { type: "submit" }, "Add"), alertLine());
  const draw = () => {
    const rows = view.info.aliases.map((name) => el("li", {}, el("span", { class: "mono" }, name),
      may("write") ? el("button", { type: "button", class: "quiet small", "aria-label": `Remove alias ${name}`, onclick: () => remove(name) }, "Remove") : null));
    list.replaceChildren(...(rows.length ? rows : [el("li", { class: "hint" }, "None yet.")]));
  };
  const remove = async (name) => {
    if (!await confirmed(`Remove the alias ${name}?`, "Programs that use it will not find the collection any more.", "Remove")) return;
    try {
      await call("DELETE", `${view.path}/aliases/${encodeURIComponent(name)}`);
      await view.again();
      input.focus();
    } catch (wrong) {
      complain(error, wrong);
    }
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async () => {
      const name = input.value.trim(), owner = await ownerOf(name);
      if (owner && owner !== view.info.name && !await confirmed(`Move the alias ${name}?`, `It leads to ${owner} now. From now on it will lead to ${view.info.name}.`, "Move")) return;
      await call("POST", `${view.path}/aliases`, { alias: name });
      toast(`${name} leads to ${view.info.name} now`);
      form.reset();
      await view.again();
    });
  });
  view.addEventListener("info", draw, { signal: view.signal });
  draw();
  return card("Aliases", "Other names of this collection. An alias can be moved to another collection at once, without a gap.", list, error, form);
}

/** The collection that an alias leads to, or null. */
async function ownerOf(alias) {
  try {
    const { data } = await call("GET", `/collections/${encodeURIComponent(alias)}`);
    return data.aliases.includes(alias) ? data.name : null; // a collection's own name is refused, and says so
  } catch (error) {
    if (error.status === 404 || error.status === 422) return null;
    throw error;
  }
}

function reembedCard(view, jobs) {
  const select = el("select", { id: "reembed-model" });
  const form = el("form", { class: "row" }, el("div", {}, el("label", { for: "reembed-model" }, "Model"), select), el("button", { type: "submit" }, "Re-embed"), alertLine());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async (tell) => {
      const model = select.value, texts = plural(view.info.count, "text");
      const what = `Its ${texts} are embedded again in the background. Searches go on with the present vectors until all are done; nothing can be stored meanwhile.`;
      if (!await confirmed(`Re-embed ${view.info.name} with ${model}?`, what, "Re-embed")) return;
      await patiently([503], () => call("POST", `${view.path}/reembed`, { model }), tell, view.signal);
      await jobs.look();
    });
  });
  refreshModels(select).catch((error) => complain(form.querySelector(".error"), error));
  return card("Re-embed with another model", "Every record needs its text for this.", form);
}

function deleteCard(view) {
  const error = alertLine();
  const act = async () => {
    const { name, count } = view.info;
    if (!await confirmed(`Delete ${name}?`, `Its ${plural(count, "text")} and their vectors will be gone. This cannot be undone.`, "Delete")) return;
    try {
      await call("DELETE", view.path);
      toast(`${name} is deleted`);
      location.hash = "#/collections"; // the list is read anew
    } catch (wrong) {
      complain(error, wrong);
    }
  };
  return card("Delete", "The collection with all its records.", el("div", { class: "actions" }, el("button", { type: "button", class: "quiet danger-text", onclick: act }, "Delete collection")), error);
}
