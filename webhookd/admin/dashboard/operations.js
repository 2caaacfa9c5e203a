// Bulk work, newest first, with the progress of what runs.

import { get, isLeft } from "./api.js";
import { every, h } from "./dom.js";
import { href } from "./navigation.js";
import { isOver, kindWords, progressBar, progressWords } from "./operation-parts.js";
import { chip, emptyState, heading, when } from "./parts.js";
import { pagedList } from "./pages.js";

export function operations(context) {
  const { root, signal } = context;
  context.title("Operations");
  const body = h("tbody");
  const rows = new Map();
  const put = (operation) => {
    const row = operationRow(operation);
    const old = rows.get(operation.id);
    if (old && !old.node.contains(document.activeElement)) old.node.replaceWith(row);
    else if (!old) body.append(row);
    if (!old || !old.node.contains(document.activeElement)) rows.set(operation.id, { operation, node: row });
    else Object.assign(old, { operation });
  };
  const table = h(
    "table",
    { class: "rows operations" },
    h("caption", { class: "unseen" }, "Operations, newest first"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["State", "What", "Progress", "Reason", "By", "Started"].map((text) => h("th", { scope: "col" }, text)),
      ),
    ),
    body,
  );
  const list = pagedList({
    context,
    table,
    wanted: 20,
    add: (found) => found.forEach(put),
    fetchPage: async (cursor) => {
      const page = await get("/webhooks/operations", { limit: 20, cursor }, signal);
      return { rows: page.operations, next: page.next };
    },
    empty: () =>
      emptyState(
        "No operations yet",
        h(
          "span",
          {},
          "Redrives and discards are started from the ",
          h("a", { href: href(["dead-letters"]) }, "dead letters"),
          ".",
        ),
        h("a", { href: href(["replay"]) }, "Replay events by a filter"),
      ),
  });
  body.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !String(getSelection()))
      event.target.closest("tr")?.querySelector(".row-link")?.click();
  });
  every(2, () => refreshRunning(rows, put, signal), signal);
  root.append(
    heading("Operations", h("a", { class: "button primary", href: href(["replay"]) }, "Replay events …")),
    h(
      "p",
      { class: "lead" },
      "Replays, redrives and discards in bulk. They run in the background and survive restarts.",
    ),
    list.node,
  );
}

async function refreshRunning(rows, put, signal) {
  for (const { operation } of [...rows.values()].filter((row) => !isOver(row.operation))) {
    try {
      put(await get(`/webhooks/operations/${operation.id}`, {}, signal));
    } catch (error) {
      if (isLeft(error) || error.status === 0) return;
    }
  }
}

function operationRow(operation) {
  return h(
    "tr",
    {},
    h("td", { class: "cell-status" }, chip(operation.state)),
    h(
      "td",
      { class: "cell-type" },
      h(
        "a",
        { class: "row-link", href: href(["operations", operation.id]) },
        kindWords(operation),
      ),
      operation.dry_run && h("span", { class: "account" }, "dry run"),
    ),
    h("td", { class: "cell-progress" }, progressBar(operation), h("span", {}, progressWords(operation))),
    h("td", { class: "cell-error", title: operation.reason }, operation.reason),
    h("td", { "data-label": "By" }, operation.actor),
    h("td", { class: "cell-time", "data-label": "Started" }, when(operation.created_at)),
  );
}
