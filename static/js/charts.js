// Small line charts of numbers that keep coming.

import { el, svg } from "./dom.js";

const WIDTH = 240, HEIGHT = 56;

/** A chart of the last `length` values; `push(value)` moves it on. Null leaves a gap. */
export function chart(title, unit, length, format) {
  const line = svg("path", { class: "line" }), area = svg("path", { class: "area" });
  const now = el("p", { class: "now" }, "–");
  const values = [];
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, area, line);
  return {
    element: el("article", { class: "card chart", "data-chart": title }, el("h2", {}, title), now, picture),
    push(value) {
      values.push(value);
      if (values.length > length) values.shift();
      now.textContent = value === null ? "–" : `${format(value)}${unit ? ` ${unit}` : ""}`;
      const [over, under] = paths(values, length);
      line.setAttribute("d", over);
      area.setAttribute("d", under);
    },
  };
}

function paths(values, length) {
  const top = Math.max(...values.map((value) => value ?? 0), 1e-9) * 1.15;
  const points = values.map((value, i) => [WIDTH - ((values.length - 1 - i) * WIDTH) / (length - 1), HEIGHT - 1 - ((value ?? 0) / top) * (HEIGHT - 4)]);
  const over = points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  return [over, `${over}L${WIDTH} ${HEIGHT}L${points[0][0].toFixed(1)} ${HEIGHT}Z`];
}
