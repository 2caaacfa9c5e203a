// The first page: whether all is well, the figures that matter, and their course over a window of time.

import { createCursor } from "./charts.js";
import { every, h, setText, show } from "./dom.js";
import { count, duration, rate, roughly, shortType } from "./format.js";
import { icon } from "./icons.js";
import { href, replace } from "./navigation.js";
import { buildCharts, ratePoints } from "./overview-charts.js";
import { errorState, skeleton } from "./parts.js";
import { beat, onPulse, pulse, setPace } from "./pulse.js";
import { dependencyName, findProblems, UNFINISHED } from "./verdict.js";

const WINDOWS = [
  [900, "15 min"],
  [3600, "1 h"],
  [21600, "6 h"],
  [86400, "24 h"],
  [604800, "7 d"],
];

export function overview(context) {
  const { root, query, signal } = context;
  context.title("Overview");
  const wanted = Number(query.get("window"));
  const window = WINDOWS.some(([seconds]) => seconds === wanted) ? wanted : pulse.window;
  const parts = {
    verdict: h("section", { class: "verdict", "aria-live": "polite" }),
    tiles: h("dl", { class: "tiles" }),
    types: h("section", { class: "panel" }),
    age: h("span", { class: "faint" }),
    charts: buildCharts(createCursor()),
  };
  const said = {};
  const draw = () => drawAll(parts, said);
  root.append(
    h("h1", { class: "unseen" }, "Overview"),
    parts.verdict,
    parts.tiles,
    h(
      "div",
      { class: "heading sub" },
      h("h2", {}, "Over time"),
      h("div", { class: "aside" }, parts.age, windowChoice(window, parts)),
    ),
    parts.charts.node,
    parts.types,
  );
  for (const node of [parts.verdict, parts.types]) show(node, skeleton(3));
  onPulse(draw, signal);
  every(
    1,
    () => setText(parts.age, pulse.at ? `updated ${roughly((Date.now() - pulse.at) / 1000)} ago` : ""),
    signal,
  );
  setPace({ quick: true, window });
  if (pulse.stats) draw();
}

function windowChoice(now, { charts }) {
  const node = h(
    "div",
    { class: "segments", role: "group", "aria-label": "Window" },
    WINDOWS.map(([seconds, label]) =>
      h(
        "button",
        {
          type: "button",
          class: "button small segment",
          "aria-pressed": String(seconds === now),
          onclick: (event) => {
            for (const each of node.children) each.setAttribute("aria-pressed", String(each === event.currentTarget));
            charts.node.classList.add("waiting");
            replace([], { window: seconds });
            setPace({ quick: true, window: seconds });
          },
        },
        label,
      ),
    ),
  );
  return node;
}

function drawAll(parts, said) {
  const { stats, health } = pulse;
  if (health || stats) drawVerdict(parts.verdict, said);
  if (!stats) {
    if (pulse.problem) show(parts.types, errorState(new Error(pulse.problem), beat));
    return;
  }
  drawTiles(parts.tiles, stats, said);
  parts.charts.node.classList.remove("waiting");
  parts.charts.update(stats);
  drawTypes(parts.types, stats, said);
}

/** Builds a part only if its values are new: links keep their focus, and live regions stay quiet. */
function onceNew(said, name, value, build) {
  const text = JSON.stringify(value);
  if (said[name] === text) return;
  said[name] = text;
  build();
}

function drawVerdict(node, said) {
  const problems = findProblems(pulse);
  if (pulse.problem && !pulse.away)
    problems.push({ tone: "warn", text: `The figures are out of date: ${pulse.problem}` });
  onceNew(said, "verdict", [problems, pulse.health?.dependencies, pulse.health?.version], () => {
    const worst = problems.some((problem) => problem.tone === "bad") ? "bad" : problems.length > 0 ? "warn" : "good";
    node.className = `verdict ${worst}`;
    show(
      node,
      h(
        "div",
        { class: "verdict-text" },
        verdictTitle(problems, worst),
        problems.length > 0 && h("ul", {}, problems.map(problemLine)),
      ),
      dependencyList(),
    );
  });
}

function verdictTitle(problems, worst) {
  const words =
    problems.length === 0
      ? "All is well"
      : problems.length === 1
        ? "One thing needs attention"
        : `${problems.length} things need attention`;
  return h("p", { class: "verdict-title" }, icon(worst === "good" ? "check" : "warn", 22), words);
}

function problemLine({ tone, text, detail, link }) {
  return h(
    "li",
    { class: tone },
    icon(tone === "bad" ? "dead" : "warn"),
    h(
      "span",
      {},
      h("strong", {}, text),
      " ",
      detail && h("span", { class: "faint" }, detail),
      " ",
      link && h("a", { href: link.href }, link.label),
    ),
  );
}

function dependencyList() {
  const { health } = pulse;
  if (!health) return null;
  return h(
    "ul",
    { class: "dependencies", "aria-label": "Dependencies" },
    Object.entries(health.dependencies).map(([name, { up, problem }]) =>
      h(
        "li",
        { class: up ? "good" : "bad", title: problem },
        icon(up ? "check" : "cross", 14),
        h("span", {}, dependencyName(name)),
        h("span", { class: "faint" }, up ? "up" : "away"),
      ),
    ),
    h("li", { class: "faint" }, `webhookd ${health.version}`),
  );
}

function drawTiles(node, stats, said) {
  const { now, latency, totals } = stats;
  const over = duration(stats.window);
  const points = ratePoints(stats);
  const unfinished = UNFINISHED.reduce((sum, name) => sum + (now.statuses[name] ?? 0), 0);
  const speed = (key) => rate(latestRate(points, key, stats));
  const tiles = [
    ["Received", `${speed("received")} /s`, `${count(totals.received)} in ${over}`],
    ["Processed", `${speed("processed")} /s`, `${count(totals.processed)} in ${over}`],
    [
      "Acknowledged, p99",
      duration(latency.acknowledgement.p99),
      `half within ${duration(latency.acknowledgement.p50)}`,
    ],
    ["End to end, p99", duration(latency.end_to_end.p99), `half within ${duration(latency.end_to_end.p50)}`],
    [
      "Unfinished",
      count(unfinished, now.capped_at),
      `${count(now.statuses.retrying)} retrying`,
      href(["events"], { status: UNFINISHED }),
    ],
    [
      "Oldest unfinished",
      duration(Math.round(now.oldest_unfinished_seconds ?? 0)),
      "since receipt",
      href(["events"], { status: UNFINISHED }),
      (now.oldest_unfinished_seconds ?? 0) > 120 && "warn",
    ],
    [
      "Dead",
      count(now.statuses.dead, now.capped_at),
      `${count(totals.dead)} in ${over}`,
      href(["dead-letters"]),
      now.statuses.dead > 0 && "bad",
    ],
    [
      "Quarantine",
      count(now.quarantine, now.capped_at),
      "waiting",
      href(["quarantine"]),
      now.quarantine > 0 && "warn",
    ],
  ];
  onceNew(said, "tiles", tiles, () => {
    const focus = document.activeElement?.closest?.(".tile a")?.getAttribute("data-tile");
    show(node, tiles.map(tile));
    if (focus) node.querySelector(`[data-tile="${focus}"]`)?.focus();
  });
}

/** Returns the rate of the last minute if steps are short, else of the window: a long last step says nothing of now. */
function latestRate(points, key, { step, rates }) {
  if (step > 60) return rates[key];
  const recent = points.slice(0, -1).slice(-Math.max(1, Math.floor(60 / step)));
  if (recent.length === 0) return null;
  return recent.reduce((sum, point) => sum + point[key], 0) / recent.length;
}

function tile([name, value, note, link, tone]) {
  const figure = link ? h("a", { href: link, "data-tile": name }, value) : value;
  return h(
    "div",
    { class: `tile ${tone || ""}` },
    h("dt", {}, name),
    h("dd", { class: "tile-value" }, figure),
    h("dd", { class: "tile-note" }, note),
  );
}

function drawTypes(node, stats, said) {
  onceNew(said, "types", [stats.event_types, stats.window], () => {
    const most = Math.max(1, ...stats.event_types.map((row) => row.received));
    const heads = ["Received", "Processed", "Retried", "Dead"];
    show(
      node,
      h("h2", {}, "Event types ", h("span", { class: "faint" }, `in the last ${duration(stats.window)}`)),
      stats.event_types.length === 0
        ? h("p", { class: "faint" }, "No events in this window.")
        : h(
            "table",
            { class: "types" },
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                h("th", { scope: "col" }, "Type"),
                h("td", { class: "cell-share", "aria-hidden": "true" }),
                heads.map((text) => h("th", { scope: "col", class: "figure" }, text)),
              ),
            ),
            h(
              "tbody",
              {},
              stats.event_types.map((row) => typeRow(row, most)),
            ),
          ),
    );
  });
}

function typeRow(row, most) {
  const type = shortType(row.event_type);
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, h("a", { href: href(["events"], { event_type: type }) }, type)),
    h("td", { class: "cell-share", "aria-hidden": "true" }, h("meter", { min: 0, max: most, value: row.received })),
    h("td", { class: "figure", "data-label": "received" }, count(row.received)),
    h("td", { class: "figure", "data-label": "processed" }, count(row.processed)),
    h("td", { class: "figure", "data-label": "retried" }, count(row.retried)),
    h(
      "td",
      { class: `figure ${row.dead ? "bad" : ""}`, "data-label": "dead" },
      row.dead ? h("a", { href: href(["dead-letters"], { event_type: type }) }, count(row.dead)) : "0",
    ),
  );
}
