// Line charts over time, on uPlot: axes, a legend with the values, one cursor for all charts, and
// the same numbers as a table. A time that nobody measured is a gap.

import { el } from "./dom.js";

const HEIGHT = 168, AXIS_WIDTH = 62;
const DASHES = [[], [7, 3], [2, 3]]; // lines are told apart without colours too
const three = (value) => (value >= 100 ? Math.round(value) : Number(value.toPrecision(value >= 10 ? 3 : 2))).toLocaleString("en");

/** How numbers are written, by their unit. */
export const FORMATS = {
  rate: (value) => (value >= 1e6 ? `${three(value / 1e6)} M` : value >= 1e4 ? `${three(value / 1e3)} k` : value < 0.005 ? "0" : three(value)),
  seconds: (value) => (value >= 1 ? `${three(value)} s` : `${three(value * 1000)} ms`),
  share: (value) => `${three(100 * value)} %`,
  bytes: (value) => (value >= 1e9 ? `${three(value / 1e9)} GB` : `${three(value / 1e6)} MB`),
};
const colour = (n) => getComputedStyle(document.documentElement).getPropertyValue(n).trim();
const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString(undefined, { hour12: false });
/** The values with nothing before and nothing after: a line of one point is a dot. */
const lone = (values) => values.flatMap((value, i) => (value !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null ? [i] : []));

/** A chart of `lines`, [{key, name}]; `about` says what it shows, `top` is the axis's end if it has one.
    `draw(times, columns, from)` shows the columns from a moment on; `said(text)` reads a moment out. */
export function chart(uPlot, { title, about, unit, lines, top }, said) {
  const format = FORMATS[unit], write = (value) => (value === null || value === undefined ? "–" : format(value));
  const values = lines.map(() => el("span", { class: "value" }, "–")), at = el("p", { class: "hint" });
  const cells = lines.map(() => [el("td"), el("td"), el("td")]);
  const host = el("div", { class: "plot", tabindex: "0", role: "group" });
  const element = el("article", { class: "card chart", "data-chart": title },
    el("div", { class: "heading" }, el("h2", {}, title), at),
    el("ul", { class: "legend" }, lines.map((line, i) => el("li", {}, el("span", { class: `swatch line-${i % 3}` }), line.name, " ", values[i]))),
    host,
    el("details", {}, el("summary", {}, "As a table"),
      el("table", {}, el("caption", { class: "hint" }, about),
        el("thead", {}, el("tr", {}, ["Line", "Last", "Lowest", "Highest"].map((name) => el("th", { scope: "col" }, name)))),
        el("tbody", {}, lines.map((line, i) => el("tr", {}, el("th", { scope: "row" }, line.name), cells[i]))))));

  let plot = null, data = [[], ...lines.map(() => [])], from = 0;
  const text = (i) => lines.map((line, n) => `${line.name} ${write(data[n + 1][i])}`).join(", ");

  function legend() {
    const i = plot?.cursor.idx ?? null, last = data[0].length - 1;
    lines.forEach((_, n) => { values[n].textContent = write(data[n + 1][i ?? last]); });
    at.textContent = i === null ? "" : clock(data[0][i]);
  }

  const options = () => ({
    width: host.clientWidth, height: HEIGHT, legend: { show: false },
    cursor: { sync: { key: "live", setSeries: false }, drag: { x: false, y: false }, y: false, points: { size: 6 } },
    scales: { x: { time: true }, y: { range: (_, __, most) => [0, top ?? (Math.max(most ?? 0, 0) * 1.1 || 1)] } },
    axes: [
      { stroke: () => colour("--soft"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false }, space: 80, size: 30,
        values: (_, splits, __, ___, step) => splits.map((time) => clock(time).slice(0, step < 60 ? 8 : 5)) },
      { stroke: () => colour("--soft"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false }, size: AXIS_WIDTH, space: 34,
        values: (_, splits) => splits.map(format) },
    ],
    series: [{}, ...lines.map((line, n) => ({
      label: line.name, stroke: () => colour(`--line-${n % 3}`), width: 1.6, dash: DASHES[n % 3],
      points: { show: true, size: 5, filter: (u, i) => lone(u.data[i]) },
    }))],
    hooks: { setCursor: [legend] },
  });

  function show() {
    if (!host.clientWidth || !data[0].length) return;
    if (plot) plot.setData(data, false);
    else plot = new uPlot(options(), data, host);
    plot.setScale("x", { min: from, max: data[0].at(-1) });
  }

  new ResizeObserver(() => {
    if (!plot) show();
    else if (host.clientWidth && host.clientWidth !== plot.width) plot.setSize({ width: host.clientWidth, height: HEIGHT });
  }).observe(host);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot?.redraw());
  host.addEventListener("keydown", (event) => {
    const last = data[0].length - 1, i = plot?.cursor.idx ?? last + 1;
    const next = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: data[0].findIndex((time) => time >= from), End: last }[event.key];
    if (next === undefined || !plot || next < 0 || next > last) return;
    event.preventDefault();
    plot.setCursor({ left: plot.valToPos(data[0][next], "x"), top: 0 }, true, true);
    said(`${clock(data[0][next])}: ${text(next)}`);
  });

  return {
    element,
    draw(times, columns, since) {
      from = since;
      data = [times, ...lines.map((line) => columns[line.key])];
      const first = times.findIndex((time) => time >= from);
      lines.forEach((_, n) => {
        const known = data[n + 1].slice(Math.max(0, first)).filter((value) => value !== null);
        const found = [data[n + 1].at(-1), known.length ? Math.min(...known) : null, known.length ? Math.max(...known) : null];
        cells[n].forEach((cell, c) => { cell.textContent = write(found[c]); });
      });
      host.setAttribute("aria-label", `${title}. ${about} Now: ${text(times.length - 1)}. Left and right arrows read it out.`);
      show();
      legend();
    },
  };
}
