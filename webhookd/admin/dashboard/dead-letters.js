// Dead events: choose some, or all events that match, and redrive or discard them.

import { get, post } from "./api.js";
import { bulkDialog } from "./bulk-dialog.js";
import { h, setText, show } from "./dom.js";
import { eventTable } from "./event-table.js";
import { field, filterForm, pick } from "./filters.js";
import { count, plural } from "./format.js";
import { href } from "./navigation.js";
import { emptyState, heading, lookOnlyNote, operateButton } from "./parts.js";
import { pagedList } from "./pages.js";
import { createSelection } from "./selection.js";

const FILTERS = ["event_type", "account", "reason", "died_from", "died_to"];
const MOST = 1000;
const VERBS = {
  redrive: {
    verb: "Redrive",
    withRate: true,
    text: "Each event starts anew with all its attempts. Its effects still happen only once.",
  },
  discard: {
    verb: "Discard",
    danger: true,
    text: "The events leave this list and the dead-letter queue. Their history stays, and the search finds them.",
  },
};

export function deadLetters(context) {
  const { root, query, signal } = context;
  context.title("Dead letters");
  const discarded = query.get("discarded") === "true";
  const filter = pick(query, FILTERS);
  const selection = createSelection();
  const table = eventTable({
    caption: "Dead events, newest death first",
    timeHead: "Died",
    time: (row) => row.finished_at ?? row.received_at,
    withStatus: discarded,
    errorHead: "Reason",
    select: discarded ? null : selection.box,
    selectHead: discarded ? null : selection.all,
  });
  const list = pagedList({
    context,
    table: table.node,
    add: (rows) => {
      table.add(rows);
      selection.refresh();
    },
    fetchPage: async (cursor) => {
      const page = await get("/webhooks/dead-letters", { ...filter, discarded, limit: 50, cursor }, signal);
      return { rows: page.events, next: page.next, searchedTo: page.searched_to };
    },
    empty: () => nothing(filter, discarded),
  });
  selection.attach(table.node);
  show(
    root,
    heading(
      discarded ? "Discarded dead letters" : "Dead letters",
      !discarded && [bulkButton("redrive", filter, context), bulkButton("discard", filter, context)],
    ),
    h("p", { class: "lead" }, "Events whose handlers gave up, or failed at every attempt. Nothing happens to them until an operator acts."),
    lookOnlyNote(),
    filterForm("dead-letters", {
      query,
      count: Object.keys(filter).length,
      fields: [
        field("reason", "Reason contains", query, { placeholder: "timeout" }),
        field("event_type", "Type", query, { kind: "types" }),
        field("account", "Account", query),
        field("died_from", "Died from", query, { kind: "time" }),
        field("died_to", "to", query, { kind: "time" }),
        field("discarded", "Show", query, {
          kind: "select",
          choices: [
            ["", "Waiting"],
            ["true", "Discarded"],
          ],
        }),
      ],
    }),
    list.node,
    selectionBar(selection, context),
  );
}

/** Returns a button for all events that the filter matches. The dry run in the dialog counts them. */
function bulkButton(action, filter, context) {
  const { verb } = VERBS[action];
  const filtered = Object.keys(filter).length > 0;
  return operateButton(
    filtered ? `${verb} all that match …` : `${verb} all …`,
    async () => {
      const chosen = filtered ? { filter: { ...filter, ...listed(filter) } } : { all: true };
      const started = await bulkDialog({
        ...VERBS[action],
        title: filtered ? `${verb} all that match the filters` : `${verb} all dead events`,
        submit: (values) => send(action, chosen, values, context.signal),
        signal: context.signal,
      });
      if (started) context.reload();
    },
    { sign: action === "redrive" ? "retry" : "discard" },
  );
}

/** Returns the event types as a list: the API needs a list, but the address may hold one value. */
function listed({ event_type: types }) {
  return types ? { event_type: [types].flat() } : {};
}

function send(action, chosen, { dryRun, reason, rate }, signal) {
  const pace = action === "redrive" && rate ? { rate } : {};
  return post(`/webhooks/dead-letters/${action}`, { ...chosen, reason, dry_run: dryRun, ...pace }, signal);
}

function selectionBar(selection, context) {
  const words = h("span", { "aria-live": "polite" });
  const act = (action) => async () => {
    const ids = selection.ids();
    if (ids.length === 0) return;
    const started = await bulkDialog({
      ...VERBS[action],
      title: `${VERBS[action].verb} ${plural(ids.length, "dead event")}`,
      sure: ids.length,
      submit: (values) => send(action, { ids }, values, context.signal),
      signal: context.signal,
    });
    if (started) context.reload();
  };
  const node = h(
    "div",
    { class: "selection-bar", hidden: true },
    words,
    operateButton("Redrive", act("redrive"), { sign: "retry", kind: "primary" }),
    operateButton("Discard", act("discard"), { sign: "discard" }),
    h("button", { type: "button", class: "button quiet", onclick: selection.clear }, "Clear"),
  );
  selection.onChange((number) => {
    node.hidden = number === 0;
    setText(
      words,
      number > MOST
        ? `${count(number)} chosen; at most ${MOST} at a time`
        : `${count(number)} chosen`,
    );
  });
  return node;
}

function nothing(filter, discarded) {
  if (Object.keys(filter).length > 0) {
    return emptyState(
      "No dead event matches these filters",
      h("a", { href: href(["dead-letters"]) }, "Clear the filters"),
    );
  }
  if (discarded)
    return emptyState("Nothing was discarded", h("a", { href: href(["dead-letters"]) }, "Back to the waiting events"));
  return emptyState(
    "No dead events",
    "Every event was processed, or has attempts left. There is nothing to do here.",
  );
}
