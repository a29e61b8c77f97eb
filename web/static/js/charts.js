// Small line charts of numbers that keep coming.

import { el, svg } from "./dom.js";

const WIDTH = 240, HEIGHT = 56;
const FEWEST = 30; // points across at the start; then more and more, up to `length`

/** A chart of the last `length` values; `push(value)` moves it on. Null leaves a gap. */
export function chart(title, unit, length, format) {
  const line = svg("path", { class: "line" }), area = svg("path", { class: "area" });
  const number = el("span", {}, "–"), peak = el("p", { class: "hint" });
  const values = [];
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, area, line);
  return {
    element: el("article", { class: "card chart", "data-chart": title },
      el("div", { class: "heading" }, el("h2", {}, title), peak),
      el("p", { class: "now" }, number, el("span", { class: "unit" }, ` ${unit}`)), picture),
    push(value) {
      values.push(value);
      if (values.length > length) values.shift();
      const known = values.filter((one) => one !== null);
      number.textContent = value === null ? "–" : format(value);
      peak.textContent = known.length ? `peak ${format(Math.max(...known))}` : "";
      const [over, under] = paths(values, length);
      line.setAttribute("d", over);
      area.setAttribute("d", under);
    },
  };
}

/** The line, and what lies under it, each in one piece between two gaps. A lone value is a dash. */
function paths(values, length) {
  const top = Math.max(...values.map((value) => value ?? 0), 1e-9) * 1.15;
  const step = WIDTH / (Math.min(Math.max(values.length, FEWEST), length) - 1);
  let over = "", under = "", piece = [];
  const close = () => {
    if (!piece.length) return;
    if (piece.length === 1) piece.unshift([piece[0][0] - step, piece[0][1]]);
    const line = piece.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
    over += line;
    under += `${line}L${piece.at(-1)[0].toFixed(1)} ${HEIGHT}L${piece[0][0].toFixed(1)} ${HEIGHT}Z`;
    piece = [];
  };
  values.forEach((value, i) => {
    if (value === null) close();
    else piece.push([WIDTH - (values.length - 1 - i) * step, HEIGHT - 2 - (value / top) * (HEIGHT - 6)]);
  });
  close();
  return [over, under];
}
