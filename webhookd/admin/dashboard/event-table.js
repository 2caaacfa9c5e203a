// Events as rows of a table (cards on narrow screens), the same on every page.

import { h } from "./dom.js";
import { shortType } from "./format.js";
import { briefError, entityWords } from "./event-words.js";
import { eventLink, timelineLink } from "./navigation.js";
import { chip, when } from "./parts.js";

/**
 * Returns a table that grows: `add(rows)` appends rows, `renew(rows)` replaces them.
 * timeHead, time(row): change the time column.
 * select(row): returns a cell before the others.
 * brief: leaves out the facts that all rows have in common on the page of one entity.
 */
export function eventTable({
  caption,
  timeHead = "Received",
  time = (row) => row.received_at,
  withStatus = true,
  errorHead = "Error",
  select,
  selectHead,
  brief = false,
} = {}) {
  const body = h("tbody");
  const head = [
    selectHead && h("th", { scope: "col", class: "cell-select" }, selectHead),
    withStatus && th("Status"),
    th("Type"),
    !brief && th("Entity"),
    !brief && th("Invoice"),
    th(timeHead),
    th("Attempts", "figure"),
    th(errorHead, "cell-error"),
  ];
  const node = h(
    "table",
    { class: "rows" },
    h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, head.filter(Boolean))),
    body,
  );
  const shown = new Map();
  const build = (row) => {
    const made = { text: JSON.stringify(row), node: eventRow(row, { timeHead, time, withStatus, select, brief }) };
    shown.set(row.id, made);
    return made.node;
  };
  const add = (rows) => body.append(...rows.map(build));
  /** Shows these rows and no others. An unchanged row keeps its node; a new row is marked for a while. */
  const renew = (rows) => {
    const known = new Map(shown);
    shown.clear();
    const nodes = rows.map((row) => {
      const before = known.get(row.id);
      if (before?.text === JSON.stringify(row)) {
        shown.set(row.id, before);
        return before.node;
      }
      const node = build(row);
      if (!before) node.classList.add("fresh");
      return node;
    });
    for (const [id, { node }] of known) if (shown.get(id)?.node !== node) node.remove();
    // A moved node restarts its mark, so leave alone the nodes that are in their place.
    nodes.forEach((node, i) => {
      if (body.children[i] !== node) body.insertBefore(node, body.children[i] ?? null);
    });
  };
  body.addEventListener("click", openRow);
  return { node, body, add, renew };
}

function th(text, style) {
  return h("th", { scope: "col", class: style }, text);
}

function eventRow(row, { timeHead, time, withStatus, select, brief }) {
  return h(
    "tr",
    { "data-id": row.id, class: row.discarded_at ? "discarded" : null },
    select && h("td", { class: "cell-select" }, select(row)),
    withStatus && h("td", { class: "cell-status" }, chip(row.discarded_at ? "discarded" : row.status)),
    h(
      "td",
      { class: "cell-type" },
      h(
        "a",
        // The label is needed, because a screen reader may read a place to break as the end of a word.
        { class: "row-link", href: eventLink(row.id), "aria-label": shortType(row.event_type) },
        typeText(row.event_type),
      ),
      row.account !== "default" && h("span", { class: "account", title: "Account" }, row.account),
    ),
    !brief &&
      h(
        "td",
        { class: `cell-entity ${row.entity_id ? "" : "none"}`, "data-label": entityWords(row) },
        entityCell(row),
      ),
    !brief &&
      h(
        "td",
        { class: `cell-invoice ${row.invoice_number ? "" : "none"}`, "data-label": "Invoice" },
        row.invoice_number ?? faint(),
      ),
    h("td", { class: "cell-time", "data-label": timeHead }, when(time(row))),
    h("td", { class: "figure", "data-label": "Attempts" }, row.attempts),
    h("td", { class: "cell-error", title: row.error }, briefError(row.error)),
  );
}

function entityCell(row) {
  if (!row.entity_id) return faint();
  const link = timelineLink(row);
  const title = `${entityWords(row)} ${row.entity_id}${link ? ": open its timeline" : ""}`;
  return link
    ? h("a", { href: link, class: "quiet-link", title }, row.entity_id)
    : h("span", { title }, row.entity_id);
}

/** Returns the type, with places where a narrow column may break it. */
export function typeText(type) {
  return shortType(type)
    .split(/(?=\.)/)
    .flatMap((part, i) => (i > 0 ? [h("wbr"), part] : [part]));
}

function faint() {
  return h("span", { class: "faint" }, "–");
}

/** Opens the row at a click anywhere in it, unless the click selects text or meets another control. */
function openRow(event) {
  if (event.target.closest("a, input, button, label") || String(getSelection())) return;
  const link = event.target.closest("tr")?.querySelector(".row-link");
  if (!link) return;
  if (event.ctrlKey || event.metaKey) window.open(link.href, "_blank", "noopener");
  else link.click();
}
