/**
 * One number over time as a small line chart (SVG), with the same told in words for those who do not see it.
 * It holds as many points as it shows; a point without a value (the page was hidden, the server away) is a gap.
 */

import { element, setText } from "/dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 90;
/** Seconds from the left edge to the right one: as many as are known, between these. */
const LEAST_SPAN_S = 30;
export const SPAN_S = 120;

function svg(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const name in attributes) node.setAttribute(name, attributes[name]);
  return node;
}

/** The next of 1, 2, 5 × 10^n: an axis that ends there moves seldom. */
export function roundUp(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((end) => end >= value);
}

export class Chart {
  #points = [];
  #title;
  #format;
  #least;
  #value = element("p", "chart-value", "–");
  #range = element("p", "chart-range");
  #top = element("span", "chart-top");
  #readout = element("span", "chart-readout");
  #svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": "nothing yet" });
  #area = svg("path", { class: "chart-area" });
  #line = svg("path", { class: "chart-line" });
  #mark = svg("path", { class: "chart-mark" });
  #pointed = null;

  /** `format` makes the text of a value; the axis goes up to `least` at least. */
  constructor({ title, format, hint, least = 1 }) {
    this.#title = title;
    this.#format = format;
    this.#least = least;
    this.#svg.append(this.#area, this.#line, this.#mark);
    const plot = element("div", "chart-plot", this.#svg, this.#top, this.#readout);
    plot.addEventListener("pointermove", (event) => this.#point(event.offsetX / plot.clientWidth));
    plot.addEventListener("pointerleave", () => this.#point(null));
    const help = element("details", "chart-help", element("summary", "", "What if it grows?"), element("p", "", hint));
    help.firstChild.append(element("span", "visually-hidden", ` (${title})`));
    this.node = element("article", "chart", element("h3", "", title), this.#value, plot, this.#range, help);
  }

  /** The value at `time` (seconds, any origin), or null for a gap. */
  add(time, value) {
    this.#points.push({ time, value });
    while (this.#points[0].time < time - SPAN_S) this.#points.shift();
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
    setText(this.#range, `lowest ${low}, highest ${high}`);
    this.#svg.setAttribute("aria-label", `${this.#title}: now ${now}, lowest ${low} and highest ${high} in the time shown`);
    const end = roundUp(Math.max(this.#least, ...values));
    setText(this.#top, this.#format(end));
    const strokes = this.#strokes(end);
    this.#line.setAttribute("d", strokes.map((points) => `M${points.join("L")}`).join(""));
    this.#area.setAttribute("d", strokes.map((points) =>
      `M${points[0].split(" ")[0]} ${HEIGHT}L${points.join("L")}L${points.at(-1).split(" ")[0]} ${HEIGHT}Z`).join(""));
    this.#showPointed();
  }

  /** The line, as often interrupted as there are gaps. */
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
    return WIDTH * (1 - (last - time) / Math.max(LEAST_SPAN_S, last - this.#points[0].time));
  }

  #point(fraction) {
    this.#pointed = fraction;
    if (this.#points.length > 0) this.#showPointed();
  }

  #showPointed() {
    const x = this.#pointed === null ? null : this.#pointed * WIDTH;
    const far = ({ time }) => Math.abs(this.#x(time) - x);
    const nearest = x === null ? null : this.#points.reduce((best, point) => (far(point) < far(best) ? point : best));
    const known = nearest && nearest.value !== null;
    this.#mark.setAttribute("d", known ? `M${this.#x(nearest.time).toFixed(1)} 0V${HEIGHT}` : "");
    const ago = known ? Math.round(this.#points.at(-1).time - nearest.time) : 0;
    setText(this.#readout, known ? `${this.#format(nearest.value)}${ago > 0 ? `, ${ago} s ago` : " now"}` : "");
  }
}
