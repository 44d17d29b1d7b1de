/**
 * One value over time as a small line chart (SVG), with a text alternative for screen readers. The chart keeps the
 * points that it shows. A point without a value (the page was hidden, the server was away) is a gap in the line.
 */

import { element, setText } from "/dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 90;
/** The time shown: as much as is known, within these limits. */
const MIN_SPAN_S = 30;
export const MAX_SPAN_S = 120;

function svg(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const name in attributes) node.setAttribute(name, attributes[name]);
  return node;
}

/** The next of 1, 2, 5 × 10^n, so that the axis seldom changes. */
export function roundUp(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((end) => end >= value);
}

export class Chart {
  #points = [];
  #title;
  #format;
  #minEnd;
  #value = element("p", "chart-value", "–");
  #range = element("p", "chart-range");
  #top = element("span", "chart-top");
  #readout = element("span", "chart-readout");
  #svg = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": "no data yet",
  });
  #area = svg("path", { class: "chart-area" });
  #line = svg("path", { class: "chart-line" });
  #mark = svg("path", { class: "chart-mark" });
  #pointer = null;

  /** `format` returns the text of a value. The axis always includes `minEnd`. */
  constructor({ title, format, hint, wholeCluster = false, minEnd = 1 }) {
    this.#title = title;
    this.#format = format;
    this.#minEnd = minEnd;
    this.#svg.append(this.#area, this.#line, this.#mark);
    const plot = element("div", "chart-plot", this.#svg, this.#top, this.#readout);
    plot.addEventListener("pointermove", (event) => this.#movePointer(event.offsetX / plot.clientWidth));
    plot.addEventListener("pointerleave", () => this.#movePointer(null));
    const scope = element("p", "chart-scope", wholeCluster ? "all nodes" : "this node");
    const help = element("details", "chart-help", element("summary", "", "What if it grows?"), element("p", "", hint));
    help.firstChild.append(element("span", "visually-hidden", ` (${title})`));
    this.node = element("article", "chart", element("h3", "", title), scope, this.#value, plot, this.#range, help);
  }

  /** Adds a value, or null for a gap. `time` is in seconds, from any origin. */
  add(time, value) {
    this.#points.push({ time, value });
    while (this.#points[0].time < time - MAX_SPAN_S) this.#points.shift();
    this.#draw();
  }

  #draw() {
    const values = this.#points.map(({ value }) => value).filter((value) => value !== null);
    const last = this.#points.at(-1).value;
    const now = last === null ? "–" : this.#format(last);
    setText(this.#value, now);
    if (values.length === 0) return;
    const low = this.#format(Math.min(...values));
    const high = this.#format(Math.max(...values));
    const range = `lowest ${low}, highest ${high}`;
    setText(this.#range, range);
    this.#svg.setAttribute("aria-label", `${this.#title}: now ${now}, ${range} in the time shown`);
    const end = roundUp(Math.max(this.#minEnd, ...values));
    setText(this.#top, this.#format(end));
    const strokes = this.#strokes(end);
    this.#line.setAttribute("d", strokes.map((points) => `M${points.join("L")}`).join(""));
    this.#area.setAttribute("d", strokes.map((points) =>
      `M${points[0].split(" ")[0]} ${HEIGHT}L${points.join("L")}L${points.at(-1).split(" ")[0]} ${HEIGHT}Z`).join(""));
    this.#showReadout();
  }

  /** The parts of the line between gaps. */
  #strokes(end) {
    const strokes = [[]];
    for (const { time, value } of this.#points) {
      if (value === null) strokes.push([]);
      else strokes.at(-1).push(`${this.#x(time).toFixed(1)} ${(HEIGHT - 2 - (value / end) * (HEIGHT - 6)).toFixed(1)}`);
    }
    return strokes.filter((points) => points.length > 0);
  }

  #x(time) {
    const last = this.#points.at(-1).time;
    return WIDTH * (1 - (last - time) / Math.max(MIN_SPAN_S, last - this.#points[0].time));
  }

  #movePointer(fraction) {
    this.#pointer = fraction;
    if (this.#points.length > 0) this.#showReadout();
  }

  #showReadout() {
    const x = this.#pointer === null ? null : this.#pointer * WIDTH;
    const far = ({ time }) => Math.abs(this.#x(time) - x);
    const nearest = x === null ? null : this.#points.reduce((best, point) => (far(point) < far(best) ? point : best));
    const known = nearest && nearest.value !== null;
    this.#mark.setAttribute("d", known ? `M${this.#x(nearest.time).toFixed(1)} 0V${HEIGHT}` : "");
    const ago = known ? Math.round(this.#points.at(-1).time - nearest.time) : 0;
    setText(this.#readout, known ? `${this.#format(nearest.value)}${ago > 0 ? `, ${ago} s ago` : " now"}` : "");
  }
}
