// What the page shows, as its address: `#/collections/docs?q=rain&id=a`. Links, reload and Back work by it.

/** The address as `{tab, name, query}`; an unknown or empty one has tab "". */
export function read() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [tab, name = null] = path.split("/").map(decoded);
  return { tab, name, query: Object.fromEntries(new URLSearchParams(search)) };
}

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

/** The address of a tab, of a collection, of what is looked at in it. Empty values are left out. */
export function hashOf({ tab, name = null, query = {} }) {
  const kept = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = kept.length ? `?${new URLSearchParams(kept)}` : "";
  return `#/${tab}${name === null ? "" : `/${encodeURIComponent(name)}`}${search}`;
}

/** Put what is shown into the address; with `replace` Back passes over what was shown before. */
export function write(place, { replace = false } = {}) {
  const hash = hashOf(place);
  if (hash !== location.hash) history[replace ? "replaceState" : "pushState"](null, "", hash);
}

/** Call `listener(place)` when a person goes Back, follows a link or types an address. */
export function onMove(listener) {
  addEventListener("popstate", () => listener(read()));
}
