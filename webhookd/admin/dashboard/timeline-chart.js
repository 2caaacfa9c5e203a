// Events as marks along time, in SVG. Gaps have the logarithm of their length: seconds and weeks both stay legible.

import { h, show, svg } from "./dom.js";
import { day, duration, localTime, plural, secondsBetween } from "./format.js";
import { isEnded, typeWords } from "./event-words.js";
import { icon, iconPath } from "./icons.js";
import { eventLink } from "./navigation.js";

const LEAST = 136;
const ROW = 76;
const RADIUS = 11;

/** Draws the events from left to right if there is room for the labels, else from top to bottom. */
export function timelineChart(events, noteOf) {
  const node = h("div", { class: "timeline" });
  let drawn = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (width === drawn || width === 0) return;
    drawn = width;
    const lying = events.length * LEAST <= width;
    show(node, lying ? horizontal(events, width, noteOf) : vertical(events, width, noteOf), legend());
  }).observe(node);
  return node;
}

function moment(event) {
  return event.event_date ?? event.received_at;
}

function gaps(events) {
  return events.slice(1).map((event, i) => Math.max(0, secondsBetween(moment(events[i]), moment(event))));
}

/** Returns places from `start` to `end`. Each gap gets `least` room, and shares the rest by the logarithm of its length. */
function spread(events, start, end, least) {
  const weights = gaps(events).map((gap) => Math.log1p(gap));
  const sum = weights.reduce((total, weight) => total + weight, 0) || 1;
  const free = Math.max(0, end - start - least * weights.length);
  let at = start;
  return [
    start,
    ...weights.map((weight) => {
      at += least + (free * weight) / sum;
      return at;
    }),
  ];
}

function horizontal(events, width, noteOf) {
  const half = LEAST / 2;
  const places =
    events.length === 1
      ? [width / 2]
      : spread(events, half, Math.min(width - half, half + events.length * 260), LEAST);
  const between = gaps(events);
  const y = 62;
  return svg(
    "svg",
    { viewBox: `0 0 ${width} 132`, width, height: 132, role: "group", "aria-label": summary(events) },
    svg("path", { class: "rail", d: `M${places[0]} ${y}H${places.at(-1)}` }),
    between.map((gap, i) => text((places[i] + places[i + 1]) / 2, y - 10, `+ ${duration(gap)}`, "gap middle")),
    events.map((event, i) =>
      mark(event, places[i], y, [
        text(places[i], 28, typeWords(event.event_type), "name middle"),
        text(
          places[i],
          y + 32,
          noteOf(event) ?? event.status,
          noteOf(event) ? "amount middle" : `state middle ${tone(event)}`,
        ),
        text(places[i], y + 50, day(moment(event)), "moment middle"),
      ]),
    ),
  );
}

function vertical(events, width, noteOf) {
  const height = events.length * ROW;
  const between = gaps(events);
  const x = 20;
  const y = (i) => 26 + i * ROW;
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": summary(events) },
    svg("path", { class: "rail", d: `M${x} ${y(0)}V${y(events.length - 1)}` }),
    between.map((gap, i) => text(x + 14, y(i) + ROW / 2 + 12, `+ ${duration(gap)}`, "gap")),
    events.map((event, i) =>
      mark(event, x, y(i), [
        text(x + 24, y(i) - 1, typeWords(event.event_type), "name"),
        text(
          x + 24,
          y(i) + 17,
          [noteOf(event) ?? event.status, day(moment(event))].join(" · "),
          `moment ${tone(event)}`,
        ),
      ]),
    ),
  );
}

/** Returns a link with the mark and its labels. Processed is a full disc, waiting a dashed ring, dead an octagon. */
function mark(event, x, y, labels) {
  const sign = { good: "check", bad: "cross" }[tone(event)] ?? "clock";
  const size = RADIUS * 1.1;
  const octagon = Array.from({ length: 8 }, (_, i) => {
    const angle = Math.PI * (i / 4 + 1 / 8);
    return `${x + Math.cos(angle) * (RADIUS + 1.5)},${y + Math.sin(angle) * (RADIUS + 1.5)}`;
  }).join(" ");
  return svg(
    "a",
    {
      href: eventLink(event.id),
      class: `mark ${tone(event)}`,
      "aria-label": [labels.map((label) => label.textContent).join(" "), event.status, localTime(moment(event))].join(", "),
    },
    svg("title", {}, event.error ?? event.status),
    tone(event) === "bad"
      ? svg("polygon", { class: "disc", points: octagon })
      : svg("circle", { class: "disc", cx: x, cy: y, r: RADIUS }),
    svg("path", {
      class: "sign",
      d: iconPath(sign),
      transform: `translate(${x - size / 2} ${y - size / 2}) scale(${size / 16})`,
    }),
    labels.flatMap((label) => [label, " "]),
  );
}

function tone(event) {
  if (event.status === "dead") return "bad";
  return isEnded(event) ? "good" : "warn";
}

function text(x, y, content, style) {
  return svg("text", { x, y, class: style }, content);
}

function legend() {
  return h(
    "p",
    { class: "timeline-legend" },
    [
      ["good", "check", "processed"],
      ["warn", "clock", "waits for an attempt"],
      ["bad", "dead", "dead"],
    ].map(([name, sign, word]) => h("span", { class: name }, icon(sign, 14), word)),
  );
}

function summary(events) {
  const order = events.map((event) => `${typeWords(event.event_type)} (${event.status})`).join(", then ");
  return `${plural(events.length, "event")} in the order of time: ${order}`;
}
