// The list of events, newest first, with filters that the address holds.

import { get } from "./api.js";
import { every, h, setText, show } from "./dom.js";
import { eventTable } from "./event-table.js";
import { entityWords } from "./event-words.js";
import { TEXTS, field, filterForm, originField, pick } from "./filters.js";
import { roughly } from "./format.js";
import { href, timelineLink } from "./navigation.js";
import { button, chip, emptyState, heading } from "./parts.js";
import { pagedList } from "./pages.js";

const MORE = [...TEXTS, ["notification_id", "Notification id"]];
const NAMES = ["q", "status", "event_type", "received_from", "received_to", "origin", ...MORE.map(([name]) => name)];
const REFRESH = 10; // seconds
const STATUSES = ["received", "queued", "retrying", "processed", "dead"];

export function events(context) {
  const { root, query, signal } = context;
  const filter = pick(query, NAMES);
  const q = query.get("q");
  context.title(q ? `Search: ${q}` : "Events");
  const table = eventTable({ caption: "Events, newest first" });
  const hint = h("div", { class: "hint-line" });
  const age = h("span", { class: "faint age" });
  const list = pagedList({
    context,
    table: table.node,
    add(rows) {
      table.add(rows);
      show(hint, q && list ? timelineHint(list.rows) : q ? timelineHint(rows) : null);
    },
    renew(rows) {
      table.renew(rows);
      show(hint, q ? timelineHint(rows) : null);
    },
    fetchPage: async (cursor) => {
      const page = await get("/webhooks/events", { ...filter, limit: 50, cursor }, signal);
      return { rows: page.events, next: page.next, searchedTo: page.searched_to };
    },
    empty: () => nothing(filter, q),
  });
  root.append(
    heading(q ? `Events for “${q}”` : "Events", age, button("Refresh", context.reload, { sign: "retry" })),
    filters(query, q, filter),
    hint,
    list.node,
  );
  every(REFRESH, list.refresh, signal);
  const tellAge = () => {
    const at = list.loadedAt();
    setText(age, at ? `updated ${roughly((Date.now() - at) / 1000)} ago` : "");
  };
  every(1, tellAge, signal);
}

function filters(query, q, filter) {
  return filterForm("events", {
    query,
    kept: { q },
    count: Object.keys(filter).length - (q ? 1 : 0),
    fields: [
      field("status", "Status", query, { kind: "checks", choices: STATUSES.map((name) => [name, chip(name)]) }),
      field("event_type", "Type", query, { kind: "types" }),
      field("received_from", "Received from", query, { kind: "time" }),
      field("received_to", "to", query, { kind: "time" }),
    ],
    more: [
      ...MORE.map(([key, label, placeholder]) => ({ key, node: field(key, label, query, { placeholder }) })),
      { key: "origin", node: originField(query) },
    ],
  });
}

/** Returns a link to the timeline if all events found belong to one entity: the timeline says more than the list. */
function timelineHint(rows) {
  const links = new Set(rows.map(timelineLink).filter(Boolean));
  if (links.size !== 1 || rows.length < 2) return null;
  const [row] = rows;
  return h(
    "p",
    { class: "note" },
    "All these events belong to one ",
    entityWords(row).toLowerCase(),
    ": ",
    h("a", { href: timelineLink(row) }, `see the timeline of ${row.entity_id}`),
    ".",
  );
}

function nothing(filter, q) {
  if (q) {
    return emptyState(
      `Nothing has “${q}” as its id, invoice number or reference`,
      "The search is exact: check for a missing or an extra character.",
      h(
        "span",
        {},
        "A body that could not become an event waits in the ",
        h("a", { href: href(["quarantine"]) }, "quarantine"),
        ".",
      ),
      "If it is not there either, Authorize.Net has not delivered it to webhookd.",
    );
  }
  if (Object.keys(filter).length > 0) {
    return emptyState(
      "No event matches these filters",
      h("a", { href: href(["events"]) }, "Clear the filters"),
      "or widen the time range.",
    );
  }
  return emptyState(
    "No events yet",
    "Events appear here as soon as Authorize.Net delivers them.",
    h("span", {}, "To send a sample, run ", h("code", {}, "webhookd trigger"), " on the daemon's machine."),
  );
}
