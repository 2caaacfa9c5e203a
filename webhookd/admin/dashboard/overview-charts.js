// The charts of the overview, drawn from the series of the statistics.

import { lineChart } from "./charts.js";
import { h } from "./dom.js";
import { axisDuration, count, duration, rate } from "./format.js";

const CHARTS = [
  {
    title: "Throughput",
    hint: "events per second",
    format: rate,
    wide: true,
    series: [
      { key: "received", label: "received", tone: "a", area: true },
      { key: "processed", label: "processed", tone: "b", dash: true },
    ],
  },
  {
    title: "Acknowledgement",
    hint: "request to 200",
    format: duration,
    axis: axisDuration,
    seconds: true,
    series: [
      { key: "ack_p50", label: "p50", tone: "a" },
      { key: "ack_p99", label: "p99", tone: "c", dash: true },
    ],
  },
  {
    title: "End to end",
    hint: "receipt to processed",
    format: duration,
    axis: axisDuration,
    seconds: true,
    series: [
      { key: "end_to_end_p50", label: "p50", tone: "a" },
      { key: "end_to_end_p99", label: "p99", tone: "c", dash: true },
    ],
  },
  {
    title: "Waiting events",
    hint: "in the outbox and in the queue",
    format: count,
    whole: true,
    floor: 4,
    series: [
      { key: "outbox", label: "outbox", tone: "a" },
      { key: "queue", label: "queue", tone: "b", dash: true },
    ],
  },
  {
    title: "Oldest unfinished",
    hint: "age",
    format: duration,
    axis: axisDuration,
    seconds: true,
    floor: 4,
    series: [{ key: "oldest_unfinished_seconds", label: "age", tone: "c", area: true }],
  },
];

export function buildCharts(cursor) {
  const charts = CHARTS.map((settings) => lineChart({ ...settings, cursor }));
  charts.forEach((chart, i) => chart.node.classList.toggle("wide", Boolean(CHARTS[i].wide)));
  return {
    node: h(
      "div",
      { class: "charts" },
      charts.map((chart) => chart.node),
    ),
    update(stats) {
      const data = { points: ratePoints(stats), from: seconds(stats.from), to: seconds(stats.to), step: stats.step };
      for (const chart of charts) chart.update(data);
    },
  };
}

/** Returns the series with rates in place of counts. The rate of the last step is over its time until now. */
export function ratePoints({ series, step, to }) {
  return series.map((point) => {
    const at = seconds(point.at);
    const passed = Math.min(step, seconds(to) - at);
    const perSecond = (value) => (passed < step * 0.3 ? null : value / passed);
    return { ...point, at, received: perSecond(point.received), processed: perSecond(point.processed) };
  });
}

function seconds(iso) {
  return Date.parse(iso) / 1000;
}
