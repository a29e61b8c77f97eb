// A map's points on a canvas, and what is marked over them on another one: hits, names, a lasso.

import { ends } from "./map-layout.js";

const EDGE = 20; // CSS pixels that stay free around all points
const STEPS = 4; // a point's places within a pixel, each way
const ZOOM = [1, 60]; // times the scale at which all is in sight
const LABEL = 13, HIT = 12; // sizes of names of groups, and of hits

/** Draws points at `x` and `y` (world, y up, about -1 to 1); colours are indices into `palette`. */
export class Scene {
  constructor(points, marks) {
    this.points = points;
    this.marks = marks;
    this.x = this.y = new Float32Array(0);
    this.colours = []; // of each point, into `palette`; `plain` where it has none
    this.palette = ["#888888"];
    this.plain = 0;
    this.background = "#ffffff";
    this.ink = "#000000";
    this.accent = "#000000";
    this.chosen = null; // Uint8Array of 0 and 1: points of 0 are faint
    this.lit = new Map(); // index of a hit: its text
    this.labels = []; // {x, y, text}, the most important first
    this.current = -1; // the point under the pointer or reached by keys
    this.open = -1; // the point whose record is open
    this.lasso = []; // [x, y] in CSS pixels
    this.width = this.height = 1;
    this.camera = { x: 0, y: 0, scale: 1 };
    this.fit = 1;
  }

  /** Take new places. With `home` all of them are in sight. */
  place(x, y, home = false) {
    this.x = x;
    this.y = y;
    if (home) this.home();
    else this.draw();
  }

  /** Show all points. */
  home() {
    if (!this.x.length) return;
    const [left, right] = ends(this.x), [low, high] = ends(this.y);
    const wide = Math.max(right - left, 1e-6), tall = Math.max(high - low, 1e-6);
    this.fit = Math.min((this.width - 2 * EDGE) / wide, (this.height - 2 * EDGE) / tall, 4 * this.width);
    this.camera = { x: (left + right) / 2, y: (low + high) / 2, scale: this.fit };
    this.draw();
  }

  /** Zoom by a factor about a place on the screen; the middle if none is given. */
  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const { camera, fit } = this;
    const scale = Math.max(ZOOM[0] * fit, Math.min(ZOOM[1] * fit, camera.scale * factor));
    camera.x += (px - this.width / 2) * (1 / camera.scale - 1 / scale);
    camera.y -= (py - this.height / 2) * (1 / camera.scale - 1 / scale);
    camera.scale = scale;
    this.draw();
  }

  /** Whether more is to see by moving than is shown. */
  get zoomed() { return this.camera.scale > this.fit * 1.01; }

  pan(dx, dy) {
    this.camera.x -= dx / this.camera.scale;
    this.camera.y += dy / this.camera.scale;
    this.draw();
  }

  /** Take the size in CSS pixels of the element it fills. */
  resize(width, height) {
    const home = this.camera.scale === this.fit;
    this.ratio = Math.min(devicePixelRatio || 1, 3);
    this.width = width;
    this.height = height;
    for (const canvas of [this.points, this.marks]) {
      canvas.width = Math.max(1, Math.round(width * this.ratio));
      canvas.height = Math.max(1, Math.round(height * this.ratio));
    }
    this.image = null;
    if (home) this.home();
    else this.draw();
  }

  screenX(x) { return (x - this.camera.x) * this.camera.scale + this.width / 2; }

  screenY(y) { return this.height / 2 - (y - this.camera.y) * this.camera.scale; }

  /** Where a point is on the screen. */
  at(index) { return [this.screenX(this.x[index]), this.screenY(this.y[index])]; }

  /** The point nearest to a place on the screen, -1 if none is within `reach` pixels. */
  nearest(px, py, reach) {
    let best = -1, least = reach * reach;
    const { x, y } = this;
    for (let i = 0; i < x.length; i++) {
      const dx = this.screenX(x[i]) - px, dy = this.screenY(y[i]) - py, d = dx * dx + dy * dy;
      if (d < least) { best = i; least = d; }
    }
    return best;
  }

  /** The next point from one in a direction, `[1, 0]` to the right, `[0, 1]` up; itself at the end. */
  beside(index, [right, up]) {
    let best = index, least = Infinity;
    const { x, y } = this;
    for (let i = 0; i < x.length; i++) {
      const dx = x[i] - x[index], dy = y[i] - y[index];
      const along = dx * right + dy * up, aside = Math.abs(dx * up) + Math.abs(dy * right);
      if (along < 0 || (along === 0 && i <= index) || i === index) continue;
      const cost = along + 3 * aside; // what is aside is reached by the other arrows
      if (cost < least) { best = i; least = cost; }
    }
    return best;
  }

  /** Move the map if a point is out of sight. */
  reveal(index) {
    const [px, py] = this.at(index);
    const over = (p, size) => (p < EDGE ? EDGE - p : p > size - EDGE ? size - EDGE - p : 0);
    const dx = over(px, this.width), dy = over(py, this.height);
    if (dx || dy) this.pan(dx, dy);
  }

  /** The points within the lasso. */
  enclosed() {
    const ring = this.lasso, found = [];
    for (let i = 0; i < this.x.length; i++) {
      const px = this.screenX(this.x[i]), py = this.screenY(this.y[i]);
      let inside = false;
      for (let a = 0, b = ring.length - 1; a < ring.length; b = a++) {
        const [ax, ay] = ring[a], [bx, by] = ring[b];
        if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) inside = !inside;
      }
      if (inside) found.push(i);
    }
    return found;
  }

  /** Draw all at the next frame; `mark` alone draws what is over the points. */
  draw() {
    this.stale = true;
    this.mark();
  }

  mark() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (this.stale) this.drawPoints();
      this.stale = false;
      this.drawMarks();
    });
  }

  /** Radius of a point in CSS pixels: smaller the more there are, larger when looked at closely. */
  get radius() {
    const room = Math.max(0.6, Math.min(1, this.width / 700));
    const many = room * Math.min(5, Math.max(1.4, 2.3 * (5000 / Math.max(1, this.x.length)) ** 0.3));
    return Math.min(7, many * Math.max(0.8, this.camera.scale / this.fit) ** 0.4);
  }

  // Each point is blended into the picture from a small mask. 20,000 points with 20 names take 4 ms of
  // a core, 12 on a screen of double density, 50,000 take 10 and 22; the best of 60 frames, half of
  // which took up to 31 while nine others wanted each core (Chromium without a GPU, 2 cores of an
  // AMD EPYC, 2026-11-30).
  drawPoints() {
    const context = this.points.getContext("2d", { alpha: false });
    const { width, height } = this.points;
    this.image ??= context.createImageData(width, height);
    const { data } = this.image, [br, bg, bb] = rgb(this.background);
    new Uint32Array(data.buffer).fill(((255 << 24) | (bb << 16) | (bg << 8) | br) >>> 0);
    const { size, masks } = masksOf(this.radius * this.ratio), half = size / 2;
    const palette = this.palette.map(rgb), faint = this.chosen || this.lit.size;
    const kx = this.camera.scale * this.ratio, ky = -kx;
    const ox = width / 2 - this.camera.x * kx - half, oy = height / 2 - this.camera.y * ky - half;
    const { x, y, colours, chosen, plain } = this, n = x.length, stride = strideOf(n);
    for (const pass of faint ? [0, 1] : [1]) { // the faint ones below
      const strength = pass ? 0.8 : 0.16;
      for (let k = 0, i = 0; k < n; k++, i = (i + stride) % n) {
        if (faint && (chosen ? chosen[i] : 0) !== pass) continue;
        const px = x[i] * kx + ox, py = y[i] * ky + oy, left = Math.floor(px), top = Math.floor(py);
        if (left < 0 || top < 0 || left + size >= width || top + size >= height) continue;
        const mask = masks[((py - top) * STEPS | 0) * STEPS + ((px - left) * STEPS | 0)];
        const [r, g, b] = palette[colours[i] ?? plain];
        for (let row = 0, m = 0, at = (top * width + left) * 4; row < size; row++, at += (width - size) * 4) {
          for (let column = 0; column < size; column++, m++, at += 4) {
            if (!mask[m]) continue;
            const a = mask[m] * strength;
            data[at] += (r - data[at]) * a;
            data[at + 1] += (g - data[at + 1]) * a;
            data[at + 2] += (b - data[at + 2]) * a;
          }
        }
      }
    }
    context.putImageData(this.image, 0, 0);
  }

  drawMarks() {
    const context = this.marks.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    this.marks.parentElement?.classList.toggle("zoomed", this.zoomed);
    const taken = [];
    for (const [index] of this.lit) this.ring(context, index, this.radius + 3, this.accent);
    if (this.open >= 0) this.ring(context, this.open, this.radius + 4, this.ink);
    if (this.current >= 0) this.ring(context, this.current, this.radius + 2, this.ink);
    const font = getComputedStyle(this.marks).fontFamily;
    for (const [index, text] of this.lit) {
      const [px, py] = this.at(index);
      if (text) this.write(context, short(text), px, py - this.radius - 12, `500 ${HIT}px ${font}`, taken);
    }
    for (const { x, y, text } of this.labels) {
      this.write(context, text, this.screenX(x), this.screenY(y), `650 ${LABEL}px ${font}`, taken);
    }
    if (this.lasso.length > 1) this.outline(context);
  }

  ring(context, index, radius, colour) {
    const [px, py] = this.at(index);
    context.beginPath();
    context.arc(px, py, radius, 0, 2 * Math.PI);
    context.fillStyle = colour;
    context.strokeStyle = this.background;
    context.lineWidth = 2;
    context.fill();
    context.stroke();
  }

  /** Write a text unless it would cover another one. */
  write(context, text, px, py, font, taken) {
    context.font = font;
    const wide = context.measureText(text).width / 2 + 4, tall = 10;
    const mx = Math.max(wide, Math.min(this.width - wide, px));
    if (px < -wide || px > this.width + wide || py < 0 || py > this.height) return;
    const box = [mx - wide, py - tall, mx + wide, py + tall];
    if (taken.some((other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1])) return;
    taken.push(box);
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    context.lineWidth = 4;
    context.strokeStyle = this.background;
    context.strokeText(text, mx, py);
    context.fillStyle = this.ink;
    context.fillText(text, mx, py);
  }

  outline(context) {
    context.beginPath();
    this.lasso.forEach(([px, py], i) => (i ? context.lineTo(px, py) : context.moveTo(px, py)));
    context.closePath();
    context.globalAlpha = 0.12;
    context.fillStyle = this.accent;
    context.fill();
    context.globalAlpha = 1;
    context.lineWidth = 1.5;
    context.strokeStyle = this.accent;
    context.stroke();
  }
}

// Points are drawn in no order, or the last group would cover the others.
const strideOf = (count) => (count % 7919 ? 7919 : 7907);

const short = (text) => (text.length > 42 ? `${text.slice(0, 40).trimEnd()}…` : text);

/** The red, green and blue of `#rrggbb`. */
const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

let made = { radius: 0 };

/** How much of each pixel a disc covers, for every place of its middle within a pixel. */
function masksOf(radius) {
  if (made.radius === radius) return made;
  const size = Math.ceil(2 * radius) + 3, masks = [];
  for (let down = 0; down < STEPS; down++) {
    for (let right = 0; right < STEPS; right++) {
      const mask = new Float32Array(size * size);
      for (let row = 0; row < size; row++) {
        for (let column = 0; column < size; column++) {
          const dx = column + 0.5 - size / 2 - (right + 0.5) / STEPS, dy = row + 0.5 - size / 2 - (down + 0.5) / STEPS;
          mask[row * size + column] = Math.max(0, Math.min(1, radius + 0.5 - Math.hypot(dx, dy)));
        }
      }
      masks.push(mask);
    }
  }
  made = { radius, size, masks };
  return made;
}
