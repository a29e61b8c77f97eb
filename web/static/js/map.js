// A collection as a field of points: near means alike. Hovering or the arrow keys show the texts.

import { el, plural, svg } from "./dom.js";

const SIZE = 500, EDGE = 24;

/** How points of a map go onto the picture: as large as fits, both axes alike, what is outside on the edge. */
function placing(points) {
  const ends = (axis) => points.reduce(([low, high], point) => [Math.min(low, point[axis]), Math.max(high, point[axis])], [Infinity, -Infinity]);
  const [left, right] = ends("x"), [bottom, top] = ends("y");
  const reach = Math.max(right - left, top - bottom, 1e-6) / 2;
  const place = (value, middle) => SIZE / 2 + Math.max(-1, Math.min(1, (value - middle) / reach)) * (SIZE / 2 - EDGE);
  return (point) => dotOf(point, place(point.x, (left + right) / 2), SIZE - place(point.y, (bottom + top) / 2));
}

const dotOf = (point, cx, cy) => ({ ...point, cx, cy, node: svg("circle", { r: 5, cx, cy, "data-id": point.id }) });

/** Draw a map's reply; returns the element, `light(ids)`, which lights up search hits, and
    `missing(ids)` and `add(points)` for hits that the map did not show. */
export function drawMap(map) {
  const placed = placing(map.points), dots = map.points.map(placed);
  const tip = el("p", { class: "tip", hidden: true });
  const spoken = el("p", { class: "unseen", "aria-live": "polite" });
  const field = svg("svg", {
    viewBox: `0 0 ${SIZE} ${SIZE}`, role: "application", tabindex: "0",
    "aria-label": `Map of ${plural(dots.length, "text")}; the arrow keys go from one to the next`,
  }, dots.map((dot) => dot.node));
  const frame = el("div", { class: "map" }, field, tip, spoken);
  let current = null;
  const point = (dot, aloud) => {
    current?.node.classList.remove("near");
    current = dot;
    tip.hidden = !dot;
    if (!dot) return;
    dot.node.classList.add("near");
    tip.textContent = dot.text ?? dot.id;
    tip.style.setProperty("left", `${(dot.cx / SIZE) * 100}%`);
    tip.style.setProperty("top", `${(dot.cy / SIZE) * 100}%`);
    tip.classList.toggle("left", dot.cx > SIZE * 0.6);
    tip.classList.toggle("above", dot.cy > SIZE * 0.7);
    if (aloud) spoken.textContent = tip.textContent;
  };
  field.addEventListener("pointermove", (event) => point(nearest(field, dots, event)));
  field.addEventListener("pointerleave", () => point(null));
  field.addEventListener("blur", () => point(null));
  field.addEventListener("keydown", (event) => step(event, dots, current, point));
  return {
    element: frame,
    light: (ids) => light(dots, ids, field),
    missing: (ids) => ids.filter((id) => !dots.some((dot) => dot.id === id)),
    add: (points) => {
      const more = points.map(placed);
      dots.push(...more);
      field.append(...more.map((dot) => dot.node));
    },
  };
}

function nearest(field, dots, event) {
  const box = field.getBoundingClientRect(), scale = SIZE / box.width;
  const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
  let best = null, distance = 28 * scale;
  for (const dot of dots) {
    const d = Math.hypot(dot.cx - x, dot.cy - y);
    if (d < distance) { best = dot; distance = d; }
  }
  return best;
}

function step(event, dots, current, point) {
  const way = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (event.key === "Escape") point(null);
  if (!way || !dots.length) return;
  event.preventDefault();
  const order = [...dots].sort((a, b) => a.cx - b.cx);
  const at = current ? order.indexOf(current) + way : 0;
  point(order[(at + order.length) % order.length], true);
}

function light(dots, ids, field) {
  const wanted = new Set(ids);
  field.classList.toggle("searched", wanted.size > 0);
  for (const dot of dots) {
    const hit = wanted.has(dot.id);
    dot.node.classList.toggle("hit", hit);
    dot.node.setAttribute("r", hit ? 8 : 5);
    if (hit) field.append(dot.node); // over the others
  }
}
