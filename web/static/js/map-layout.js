// Where a map's points lie by their neighbours: the server finds these, a worker lays the points out.

import { call, may, patiently } from "./api.js";

/** With fewer points the principal components show as much. */
export const FEWEST = 50;
const KEPT = 4; // layouts of this page's last maps
const layouts = new Map(); // state: {x, y}

/** Lay a map's points out; resolves to {x, y}, from -1 to 1. `tell(text, share)` says how far it is,
    `found()` is called when the server has found the neighbours. */
export async function layOut(path, map, { tell, found, signal }) {
  if (layouts.has(map.state)) {
    await found();
    return layouts.get(map.state);
  }
  const given = await neighbours(path, map.state, tell, signal);
  const [places] = await Promise.all([computed(given, tell, signal), found()]);
  const layout = fitted(places);
  layouts.set(map.state, layout);
  if (layouts.size > KEPT) layouts.delete(layouts.keys().next().value);
  if (may("write")) keep(path, map.state, layout, signal); // who comes next need not compute it
  return layout;
}

/** The neighbours of all points, asked for in parts: {count, indices, distances}. */
async function neighbours(path, state, tell, signal) {
  let indices = null, distances = null;
  for (let start = 0, count = 1; start < count;) {
    tell("Finding neighbours", start / count);
    const query = new URLSearchParams({ state, start });
    const { data } = await patiently([503], () => call("GET", `${path}/map/neighbours?${query}`, undefined, { signal }), () => {}, signal);
    const { points, rows, neighbours: k } = data;
    count = points;
    indices ??= new Int32Array(count * k);
    distances ??= new Float32Array(count * k);
    indices.set(new Uint16Array(bytesOf(data.indices)), start * k);
    distances.set(new Float32Array(bytesOf(data.distances)), start * k);
    start += rows;
    if (start >= count) return { count, indices, distances };
  }
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer;

function computed(given, tell, signal) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./map-worker.js", import.meta.url), { type: "module" });
    const end = (settle, value) => { worker.terminate(); settle(value); };
    signal.addEventListener("abort", () => end(reject, signal.reason), { once: true });
    worker.onerror = (event) => end(reject, new Error(event.message || "The layout could not be computed."));
    worker.onmessage = ({ data }) => {
      if (data.error) end(reject, new Error(data.error));
      else if (data.places) end(resolve, data.places);
      else tell("Laying the points out", data.share);
    };
    tell("Laying the points out", 0);
    worker.postMessage(given, [given.indices.buffer, given.distances.buffer]);
  });
}

/** Turn places so that they are widest from left to right, and fit them into -1 to 1. */
function fitted(places) {
  const count = places.length / 2, x = new Float32Array(count), y = new Float32Array(count);
  let mx = 0, my = 0, xx = 0, xy = 0, yy = 0;
  for (let i = 0; i < count; i++) { mx += places[2 * i] / count; my += places[2 * i + 1] / count; }
  for (let i = 0; i < count; i++) {
    const dx = places[2 * i] - mx, dy = places[2 * i + 1] - my;
    xx += dx * dx; xy += dx * dy; yy += dy * dy;
  }
  const angle = Math.atan2(2 * xy, xx - yy) / 2, c = Math.cos(angle), s = Math.sin(angle);
  for (let i = 0; i < count; i++) {
    const dx = places[2 * i] - mx, dy = places[2 * i + 1] - my;
    x[i] = c * dx + s * dy;
    y[i] = c * dy - s * dx;
  }
  const middle = (all) => { const [low, high] = ends(all); return (low + high) / 2; };
  const cx = middle(x), cy = middle(y);
  const [left, right] = ends(x), [low, high] = ends(y);
  const reach = Math.max(right - left, high - low, 1e-9) / 2;
  for (let i = 0; i < count; i++) { x[i] = (x[i] - cx) / reach; y[i] = (y[i] - cy) / reach; }
  return { x, y };
}

/** The smallest and the largest of many numbers. */
export function ends(all) {
  let low = Infinity, high = -Infinity;
  for (const one of all) { if (one < low) low = one; if (one > high) high = one; }
  return [low, high];
}

async function keep(path, state, { x, y }, signal) {
  const both = new Float32Array(2 * x.length);
  x.forEach((one, i) => { both[2 * i] = Math.max(-1, Math.min(1, one)); both[2 * i + 1] = Math.max(-1, Math.min(1, y[i])); });
  const bytes = new Uint8Array(both.buffer), parts = [];
  for (let at = 0; at < bytes.length; at += 0x8000) parts.push(String.fromCharCode(...bytes.subarray(at, at + 0x8000)));
  try {
    await call("PUT", `${path}/map/layout`, { state, points: btoa(parts.join("")) }, { signal });
  } catch { /* it is drawn all the same, and computed again another time */ }
}
