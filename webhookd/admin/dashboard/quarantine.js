// Authentic bodies that could not become events: a list by state.

import { get } from "./api.js";
import { h } from "./dom.js";
import { field, filterForm, pick } from "./filters.js";
import { bytes } from "./format.js";
import { href } from "./navigation.js";
import { chip, emptyState, heading, when } from "./parts.js";
import { pagedList } from "./pages.js";
import { REASON_CHOICES, reasonWords } from "./quarantine-words.js";

const NAMES = ["state", "reason", "account", "received_from", "received_to"];

export function quarantine(context) {
  const { root, query, signal } = context;
  context.title("Quarantine");
  const filter = pick(query, NAMES);
  const body = h("tbody");
  const heads = ["State", "Why", "Detail", "Account", "Received", "Times", "Size"];
  const table = h(
    "table",
    { class: "rows" },
    h("caption", { class: "unseen" }, "Bodies in quarantine, newest first"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        heads.map((text, i) => h("th", { scope: "col", class: i > 4 ? "figure" : null }, text)),
      ),
    ),
    body,
  );
  const list = pagedList({
    context,
    table,
    add: (rows) => body.append(...rows.map(bodyRow)),
    fetchPage: async (cursor) => {
      const page = await get("/webhooks/quarantine", { ...filter, limit: 50, cursor }, signal);
      return { rows: page.bodies, next: page.next, searchedTo: page.searched_to };
    },
    empty: () => nothing(filter),
  });
  body.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !String(getSelection()))
      event.target.closest("tr")?.querySelector(".row-link")?.click();
  });
  root.append(
    heading("Quarantine"),
    h(
      "p",
      { class: "lead" },
      "Bodies with a valid signature that could not become events. Authorize.Net got a 200 for each, " +
        "and does not send them again. Release or discard each body.",
    ),
    filterForm("quarantine", {
      query,
      count: Object.keys(filter).length,
      fields: [
        field("state", "State", query, {
          kind: "select",
          choices: [
            ["", "Waiting"],
            ["released", "Released"],
            ["discarded", "Discarded"],
          ],
        }),
        field("reason", "Why", query, { kind: "select", choices: [["", "Any reason"], ...REASON_CHOICES] }),
        field("account", "Account", query, { placeholder: "default" }),
        field("received_from", "Received from", query, { kind: "time" }),
        field("received_to", "to", query, { kind: "time" }),
      ],
    }),
    list.node,
  );
}

function bodyRow(row) {
  return h(
    "tr",
    {},
    h("td", { class: "cell-status" }, chip(row.state)),
    h(
      "td",
      { class: "cell-type" },
      h("a", { class: "row-link", href: href(["quarantine", row.id]) }, reasonWords(row.reason)),
    ),
    h("td", { class: "cell-error", title: row.detail }, row.detail),
    h("td", { "data-label": "Account" }, row.account),
    h("td", { class: "cell-time", "data-label": "Received" }, when(row.received_at)),
    h("td", { class: "figure", "data-label": "Times" }, row.times_received),
    h("td", { class: "figure", "data-label": "Size" }, bytes(row.size)),
  );
}

function nothing(filter) {
  if (Object.keys(filter).length > 0) {
    return emptyState(
      "Nothing in quarantine matches these filters",
      h("a", { href: href(["quarantine"]) }, "Clear the filters"),
    );
  }
  return emptyState("The quarantine is empty", "Every authentic body became an event. There is nothing to do here.");
}
