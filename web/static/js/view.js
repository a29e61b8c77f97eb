// What the parts of an opened collection share: what it is, what is looked at, what was found.

import * as address from "./address.js";

/** An opened collection. It dispatches "query" when `query` changes and "hits" when `hits` do. */
export class View extends EventTarget {
  #closing = new AbortController();

  /** `info` is the collection's description; `again()` reads it anew and draws what changed. */
  constructor(info, query, again) {
    super();
    this.info = info;
    this.path = `/collections/${encodeURIComponent(info.name)}`;
    this.query = query; // strings, as in the address: q, k, filter, id, show, color, ...
    this.hits = []; // ids of the last search, the best first
    this.again = again;
  }

  /** Aborted when another collection is opened: for fetches, and listeners on what outlives it. */
  get signal() {
    return this.#closing.signal;
  }

  /** Change what is looked at, and the address with it. An empty value takes a key away. */
  change(changes, options) {
    this.take({ ...this.query, ...changes });
    address.write({ tab: "collections", name: this.info.name, query: this.query }, options);
  }

  /** Take what an address says; the address stays. */
  take(query) {
    const before = this.query;
    this.query = Object.fromEntries(Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== ""));
    const keys = new Set([...Object.keys(before), ...Object.keys(this.query)]);
    const changed = [...keys].filter((key) => before[key] !== this.query[key]);
    if (changed.length) this.dispatchEvent(new CustomEvent("query", { detail: changed }));
  }

  /** Tell the parts what a search found. */
  found(ids) {
    this.hits = ids;
    this.dispatchEvent(new Event("hits"));
  }

  /** Another collection is opened. */
  close() {
    this.#closing.abort();
  }
}
