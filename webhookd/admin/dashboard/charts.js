// Line charts in SVG: axes, gaps, a legend that shows values, and a crosshair that all charts of a page share.

import { h, setText, show, svg } from "./dom.js";
import { clock, day } from "./format.js";
import { timeLabel, timeTicks, valueTicks } from "./scales.js";

const HEIGHT = 168;
const MARGIN = { top: 8, right: 8, bottom: 22, left: 52 };

/** Returns a cursor: the moment that the crosshairs point at, shared by all charts that get the same cursor. */
export function createCursor() {
  const listeners = new Set();
  return {
    listen: (listener) => listeners.add(listener),
    point: (at) => listeners.forEach((listener) => listener(at)),
  };
}

/**
 * Returns a chart of `series` [{key, label, tone, dash?, area?}]. `format` writes a value, `axis` a value at the axis.
 * `update({points: [{at: epoch seconds, [key]: number|null}], from, to, step})` draws the chart.
 */
export function lineChart({
  title,
  hint,
  series,
  format,
  axis = format,
  whole = false,
  seconds = false,
  floor = 0,
  cursor,
}) {
  const legend = h("div", { class: "legend" });
  const moment = h("span", { class: "chart-moment" });
  const spoken = h("span", { class: "unseen", "aria-live": "polite" });
  const plot = svg("svg", { class: "plot", height: HEIGHT, role: "img", tabindex: 0 });
  const node = h(
    "figure",
    { class: "chart" },
    h(
      "figcaption",
      {},
      h("span", { class: "chart-title" }, title),
      hint && h("span", { class: "faint" }, hint),
      moment,
    ),
    legend,
    plot,
    spoken,
  );
  const state = { data: null, width: 0, at: null, scale: null };
  const values = new Map(series.map((line) => [line.key, h("b", {})]));
  show(
    legend,
    series.map((line) =>
      h(
        "span",
        { class: `key tone-${line.tone}` },
        svg(
          "svg",
          { width: 18, height: 8, "aria-hidden": "true" },
          svg("path", { class: `line${line.dash ? " dashed" : ""}`, d: "M1 4H17" }),
        ),
        line.label,
        values.get(line.key),
      ),
    ),
  );

  const cross = svg("g", { class: "cross", visibility: "hidden" });

  function draw() {
    if (!state.data || state.width < 80) return;
    state.scale = makeScale(state, series, { whole, seconds, floor });
    show(plot, ...axes(state.scale, axis), ...series.flatMap((line) => drawLine(line, state)), cross);
    plot.setAttribute("viewBox", `0 0 ${state.width} ${HEIGHT}`);
    plot.setAttribute("aria-label", summary(title, series, state.data, format));
    pointAt(state.at);
  }

  function pointAt(at) {
    state.at = at;
    if (!state.scale) return;
    const point = at === null ? lastWith(state.data.points, series) : nearest(state.data.points, at);
    for (const line of series) setText(values.get(line.key), point ? format(point[line.key]) : "–");
    setText(moment, at === null || !point ? "" : pointTime(point, state.data));
    cross.setAttribute("visibility", at === null || !point ? "hidden" : "visible");
    if (at !== null && point) show(cross, ...crosshair(point, series, state.scale));
  }

  function move(step) {
    const { points } = state.data ?? { points: [] };
    if (points.length === 0) return;
    const now = state.at === null ? points.length : points.indexOf(nearest(points, state.at));
    const point = points[Math.max(0, Math.min(points.length - 1, now + step))];
    cursor.point(point.at);
    setText(
      spoken,
      `${pointTime(point, state.data)}: ` +
        series.map((line) => `${line.label} ${format(point[line.key])}`).join(", "),
    );
  }

  plot.addEventListener("pointermove", (event) => {
    if (!state.scale) return;
    const { left } = plot.getBoundingClientRect();
    cursor.point(state.scale.time(event.clientX - left));
  });
  plot.addEventListener("pointerleave", () => cursor.point(null));
  plot.addEventListener("blur", () => cursor.point(null));
  plot.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e6, End: 1e6 };
    if (event.key === "Escape") cursor.point(null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    move(steps[event.key]);
  });
  cursor.listen(pointAt);
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (width === state.width) return;
    state.width = width;
    draw();
  }).observe(plot);

  return {
    node,
    update(data) {
      state.data = data;
      draw();
    },
  };
}

function makeScale({ data, width }, series, { whole, seconds, floor }) {
  const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
  const all = data.points.flatMap((point) => series.map((line) => point[line.key] ?? 0));
  const ticks = valueTicks(Math.max(floor, ...all) || 1, { whole, seconds });
  const top = ticks.at(-1);
  const span = data.to - data.from || 1;
  return {
    ticks,
    width,
    data,
    inner,
    x: (at) => MARGIN.left + ((at - data.from) / span) * inner.width,
    y: (value) => MARGIN.top + inner.height * (1 - value / top),
    time: (x) => data.from + ((x - MARGIN.left) / inner.width) * span,
  };
}

function axes(scale, format) {
  const { ticks: moments, step } = timeTicks(scale.data.from, scale.data.to, Math.max(2, scale.inner.width / 70));
  const bottom = HEIGHT - MARGIN.bottom;
  return [
    ...scale.ticks.map((value) =>
      svg(
        "g",
        { class: "tick" },
        svg("path", {
          class: value ? "grid" : "base",
          d: `M${MARGIN.left} ${scale.y(value)}H${scale.width - MARGIN.right}`,
        }),
        svg("text", { x: MARGIN.left - 8, y: scale.y(value) + 4, "text-anchor": "end" }, format(value)),
      ),
    ),
    ...moments
      .filter((at) => scale.x(at) < scale.width - 18 && scale.x(at) > MARGIN.left + 4)
      .map((at) =>
        svg(
          "g",
          { class: "tick" },
          svg("path", { class: "base", d: `M${scale.x(at)} ${bottom}v4` }),
          svg("text", { x: scale.x(at), y: bottom + 17, "text-anchor": "middle" }, timeLabel(at, step)),
        ),
      ),
  ];
}

/** Draws a line as one path; a missing value or a missing step breaks the line. */
function drawLine(line, { data, scale }) {
  const runs = [];
  let run = null;
  for (const point of data.points) {
    const value = point[line.key];
    if (value === null || value === undefined || (run && point.at - run.last > data.step * 1.5)) run = null;
    if (value === null || value === undefined) continue;
    if (!run) {
      run = { dots: [] };
      runs.push(run);
    }
    run.dots.push([scale.x(point.at).toFixed(1), scale.y(value).toFixed(1)]);
    run.last = point.at;
  }
  const paths = runs.map(
    ({ dots }) => `M${dots.map((dot) => dot.join(" ")).join("L")}${dots.length === 1 ? "h.1" : ""}`,
  );
  const base = scale.y(0);
  const areas = runs.map(({ dots }, i) => `${paths[i]}L${dots.at(-1)[0]} ${base}L${dots[0][0]} ${base}Z`);
  return [
    line.area && svg("path", { class: `area tone-${line.tone}`, d: areas.join("") }),
    svg("path", { class: `line tone-${line.tone}${line.dash ? " dashed" : ""}`, d: paths.join("") }),
  ];
}

function crosshair(point, series, scale) {
  const x = scale.x(point.at);
  const known = series.filter((line) => point[line.key] !== null && point[line.key] !== undefined);
  return [
    svg("path", { class: "cross-line", d: `M${x} ${MARGIN.top}V${HEIGHT - MARGIN.bottom}` }),
    ...known.map((line) =>
      svg("circle", { class: `dot tone-${line.tone}`, cx: x, cy: scale.y(point[line.key]), r: 3.5 }),
    ),
  ];
}

function nearest(points, at) {
  return points.reduce((best, point) => (Math.abs(point.at - at) < Math.abs(best.at - at) ? point : best), points[0]);
}

function lastWith(points, series) {
  return points.findLast((point) => series.some((line) => point[line.key] !== null && point[line.key] !== undefined));
}

function pointTime(point, { step }) {
  return step >= 300 ? day(point.at * 1000) : clock(point.at * 1000);
}

function summary(title, series, { points }, format) {
  const parts = series.map((line) => {
    const known = points.map((point) => point[line.key]).filter((value) => value !== null && value !== undefined);
    if (known.length === 0) return `${line.label}: no data`;
    return (
      `${line.label}: now ${format(known.at(-1))}, lowest ${format(Math.min(...known))}, ` +
      `highest ${format(Math.max(...known))}`
    );
  });
  return `${title}. ${parts.join(". ")}. Use the arrow keys to read single values.`;
}
