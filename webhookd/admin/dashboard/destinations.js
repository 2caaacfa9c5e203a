// All destinations: their states, what is left to deliver, and what was sent in the last hour.

import { get, isLeft } from "./api.js";
import { every, h, show } from "./dom.js";
import { count, duration, rate, roughly, secondsBetween } from "./format.js";
import { href } from "./navigation.js";
import { chip, emptyState, errorState, heading, skeleton } from "./parts.js";

const REFRESH = 5;
export const CAP = 100_000; // deliveries of one status are counted up to this number

export async function destinations(context) {
  const { root, signal } = context;
  context.title("Destinations");
  const body = h("tbody");
  const heads = ["State", "Destination", "Waiting", "Retrying", "Dead", "Delivered in 1 h", "Failed in 1 h", "Latency"];
  const table = h(
    "table",
    { class: "rows" },
    h("caption", { class: "unseen" }, "Destinations by name"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        heads.map((text, i) => h("th", { scope: "col", class: i > 1 ? "figure" : null }, text)),
      ),
    ),
    body,
  );
  const list = h("div", { class: "list" }, skeleton(4));
  root.append(
    heading("Destinations"),
    h(
      "p",
      { class: "lead" },
      "The applications that get events. Each destination waits for no other one. The figures include all replicas.",
    ),
    list,
  );
  body.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !String(getSelection()))
      event.target.closest("tr")?.querySelector(".row-link")?.click();
  });
  let shown = "";
  async function refresh() {
    const found = await get("/webhooks/destinations", {}, signal);
    const text = JSON.stringify(found);
    if (text === shown) return;
    shown = text;
    const focus = document.activeElement?.dataset?.name;
    if (found.destinations.length === 0) return show(list, nothing());
    show(body, found.destinations.map(destinationRow));
    if (!table.isConnected) show(list, table);
    if (focus) body.querySelector(`[data-name="${CSS.escape(focus)}"]`)?.focus();
  }
  try {
    await refresh();
  } catch (error) {
    if (!isLeft(error)) show(list, errorState(error, context.reload));
    return;
  }
  // The shell shows that the daemon is away. The rows stay.
  every(REFRESH, () => refresh().catch(() => {}), signal);
}

function destinationRow(row) {
  const { oldest, last_hour: hour } = row;
  return h(
    "tr",
    {},
    h("td", { class: "cell-status" }, chip(row.state)),
    h(
      "td",
      { class: "cell-type" },
      h("a", { class: "row-link", href: href(["destinations", row.name]), "data-name": row.name }, row.name),
      row.place && h("span", { class: "account", title: "Address" }, row.place),
    ),
    left("Waiting", row.waiting, oldest.waiting),
    left("Retrying", row.retrying, oldest.retrying),
    left("Dead", row.dead, oldest.dead, "bad"),
    h("td", { class: "figure", "data-label": "Delivered" }, `${count(hour.delivered)} (${rate(hour.per_second)} /s)`),
    h("td", { class: "figure", "data-label": "Failed" }, count(hour.failed)),
    h("td", { class: "figure", "data-label": "Latency" }, latencyWords(hour.latency)),
  );
}

/** Returns the cell of a number of deliveries, with the age of the oldest. */
function left(label, number, since, tone = "") {
  const age = since ? ` (${roughly(secondsBetween(since, new Date().toISOString()))})` : "";
  return h("td", { class: `figure ${number ? tone : ""}`, "data-label": label }, count(number, CAP), age);
}

export function latencyWords({ p50, p99 }) {
  return p50 === null ? "–" : `${duration(p50)}, p99 ${duration(p99)}`;
}

function nothing() {
  return emptyState(
    "No destination is set",
    "A destination gets events over HTTP, for applications in any language.",
    h("a", { href: "/guide/destinations" }, "How to set a destination"),
  );
}
