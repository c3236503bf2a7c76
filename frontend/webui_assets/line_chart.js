// A chart of lines over time on a canvas, with a legend that tells the values: the latest ones, or those under the
// pointer. It holds no data; dashboard.js hands it the points each time.

import { h } from "./dom.js";

const HEIGHT = 150;
const MARGIN = { top: 8, right: 4, bottom: 18, left: 44 };
const GAP_MS = 3500; // longer without a point, and the line is broken

/**
 * @typedef {{key: string, label: string, color: string, isFilled?: boolean}} Line `key` of a point; `color` of dashboard.css
 */

export class LineChart {
  #lines;
  #format;
  #min;
  #values = new Map();

  /**
   * @param {string} title
   * @param {Line[]} lines
   * @param {{format: (value: number) => string, smallestTop?: number}} options `smallestTop`: the axis ends no lower
   */
  constructor(title, lines, { format, smallestTop = 1 }) {
    this.title = title;
    this.#lines = lines;
    this.#format = format;
    this.#min = smallestTop;
    this.canvas = h("canvas", { role: "img" });
    const legend = lines.map(({ key, label, color }) => {
      const value = h("b", {}, "–");
      this.#values.set(key, value);
      return h("span", { className: `legend ${color}` }, h("i"), `${label} `, value);
    });
    this.swatches = legend;
    this.node = h("figure", { className: "card chart" }, h("figcaption", {}, h("h2", {}, title), h("div", {}, ...legend)), this.canvas);
  }

  /**
   * @param {import("./dashboard_data.js").Point[]} points in order of time
   * @param {number} now end of the axis
   * @param {number} spanMs its length
   * @param {number | null} pointed the moment under the pointer
   */
  draw(points, now, spanMs, pointed) {
    const width = this.canvas.clientWidth;
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = width * ratio;
    this.canvas.height = HEIGHT * ratio;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const seen = points.filter(({ time }) => time >= now - spanMs - GAP_MS);
    const top = this.#top(seen);
    const x = (time) => MARGIN.left + ((time - now + spanMs) / spanMs) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => HEIGHT - MARGIN.bottom - (value / top) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    this.#drawAxes(context, width, top, y, spanMs);
    context.save();
    context.beginPath();
    context.rect(MARGIN.left, 0, width - MARGIN.left - MARGIN.right, HEIGHT);
    context.clip();
    this.#lines.forEach((line, index) => this.#drawLine(context, seen, line, this.#colorOf(index), x, y));
    context.restore();
    this.#tell(context, seen, pointed, x);
  }

  /** @returns {number} the moment at a place on the canvas */
  timeAt(offsetX, now, spanMs) {
    const width = this.canvas.clientWidth - MARGIN.left - MARGIN.right;
    return now - spanMs + ((offsetX - MARGIN.left) / width) * spanMs;
  }

  #top(points) {
    let highest = this.#min;
    for (const point of points) for (const { key } of this.#lines) highest = Math.max(highest, point[key] ?? 0);
    const power = 10 ** Math.floor(Math.log10(highest));
    return [1, 2, 5, 10].map((digit) => digit * power).find((end) => end >= highest * 0.999);
  }

  #drawAxes(context, width, top, y, spanMs) {
    const style = getComputedStyle(this.canvas);
    context.font = `11px ${style.fontFamily}`;
    context.fillStyle = style.color;
    context.strokeStyle = style.borderBottomColor;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const value of [0, top / 2, top]) {
      const at = Math.round(y(value)) + 0.5;
      context.beginPath();
      context.moveTo(MARGIN.left, at);
      context.lineTo(width - MARGIN.right, at);
      context.stroke();
      context.fillText(this.#format(value), MARGIN.left - 6, at);
    }
    context.textBaseline = "bottom";
    context.fillText("now", width - MARGIN.right, HEIGHT);
    context.textAlign = "left";
    context.fillText(`${Math.round(spanMs / 60_000)} min ago`, MARGIN.left, HEIGHT);
  }

  #drawLine(context, points, { key, isFilled }, color, x, y) {
    context.strokeStyle = color;
    context.fillStyle = color;
    context.lineWidth = 1.8;
    context.lineJoin = "round";
    for (const run of runsOf(points, key)) {
      context.beginPath();
      for (const point of run) context.lineTo(x(point.time), y(point[key]));
      if (run.length === 1) context.lineTo(x(run[0].time) + 1.5, y(run[0][key]));
      context.stroke();
      if (!isFilled) continue;
      context.lineTo(x(run.at(-1).time), y(0));
      context.lineTo(x(run[0].time), y(0));
      context.globalAlpha = 0.13;
      context.fill();
      context.globalAlpha = 1;
    }
  }

  #tell(context, points, pointed, x) {
    const point = pointed === null ? points.at(-1) : nearest(points, pointed);
    const told = this.#lines.map(({ key, label }) => {
      const value = point?.[key] ?? null;
      const text = value === null ? "–" : this.#format(value);
      this.#values.get(key).textContent = text;
      return `${label} ${text}`;
    });
    this.canvas.setAttribute("aria-label", `${this.title}: ${told.join(", ")}`);
    if (pointed === null || !point) return;
    context.fillRect(Math.round(x(point.time)), MARGIN.top, 1, HEIGHT - MARGIN.top - MARGIN.bottom);
  }

  #colorOf(index) {
    return getComputedStyle(this.swatches[index].firstChild).color;
  }
}

/** The stretches of points that have a value and follow each other. */
function runsOf(points, key) {
  const runs = [];
  let before = null;
  for (const point of points) {
    if (point[key] === null || point[key] === undefined) {
      before = null;
      continue;
    }
    if (before !== null && point.time - before <= GAP_MS) runs.at(-1).push(point);
    else runs.push([point]);
    before = point.time;
  }
  return runs;
}

function nearest(points, time) {
  return points.reduce((best, point) => (Math.abs(point.time - time) < Math.abs(best.time - time) ? point : best), points[0]);
}
