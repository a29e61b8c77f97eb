// Records as JSON lines: {id, text, metadata}, which can be added to a collection as a file; with vectors
// in the form of `python -m store export`, which `import` makes a collection of.

import { call, patiently } from "./api.js";
import { el } from "./dom.js";

const PAGE = 500, OF_IDS = 200;

/** Read a collection page by page and save it as a file. `options` are `{filter, vectors, signal, progress(done)}`. */
export async function exportAll(view, { filter = null, vectors = false, signal, progress = () => {} }) {
  const lines = vectors ? [headOf(view.info)] : [], include = partsOf(vectors);
  let done = 0;
  for (let cursor = null; ;) {
    const body = { cursor, limit: PAGE, filter, include };
    const { data } = await patiently([503, 429], () => call("POST", `${view.path}/vectors/scroll`, body, { signal }), () => {}, signal);
    lines.push(new Blob(data.vectors.map(lineOf))); // out of the page's own memory
    progress(done += data.vectors.length);
    cursor = data.next_cursor;
    if (cursor === null) break;
  }
  save(lines, view.info.name);
  return done;
}

/** Save some records as a file; those that are gone are left out. */
export async function exportIds(view, ids) {
  const lines = [];
  for (let at = 0; at < ids.length; at += OF_IDS) {
    const body = { ids: ids.slice(at, at + OF_IDS), include: partsOf(false) };
    const { data } = await patiently([503], () => call("POST", `${view.path}/vectors/get`, body, { signal: view.signal }), () => {}, view.signal);
    lines.push(...data.vectors.map(lineOf));
  }
  save(lines, view.info.name);
}

/** The first line of an export with vectors: what the collection is (store/transfer.py). */
const headOf = ({ name, dimension, metric, model, fingerprint, indexed }) => lineOf({ format: "vector-collection", version: 1, name, dim: dimension, metric, model, fingerprint, indexed });
const partsOf = (vectors) => ["text", "metadata", ...(vectors ? ["vector"] : [])];
const lineOf = (record) => `${JSON.stringify(record)}\n`;

function save(lines, name) {
  const url = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
  const link = el("a", { href: url, download: `${name}.jsonl`, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60000); // the browser reads it meanwhile
}
