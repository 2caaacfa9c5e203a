// The life of one transaction or subscription: its facts, its events along time, and the list of them.

import { get } from "./api.js";
import { h } from "./dom.js";
import { eventTable } from "./event-table.js";
import { typeWords } from "./event-words.js";
import { icon } from "./icons.js";
import { href } from "./navigation.js";
import { emptyState, facts, load, section, when } from "./parts.js";
import { timelineChart } from "./timeline-chart.js";

const CODES = { 1: "1, approved", 2: "2, declined", 3: "3, error", 4: "4, held for review" };
const AVS = {
  Y: "Y, address and zip match",
  N: "N, no match",
  A: "A, address matches",
  Z: "Z, zip matches",
  P: "P, not applicable",
};

export function transactionPage(context) {
  return page(context, "Transaction", "transactions", (found) => ({
    id: found.transaction_id,
    state: found.state && `${found.kind === "refund" ? "Refund, " : ""}${found.state}`,
    amounts: [
      ["Authorised", found.authorized_amount],
      ["Captured", found.captured_amount],
      ["Refunded", found.refunded_amount],
    ],
    facts: [
      ["Invoice", found.invoice_number],
      ["Merchant reference", found.merchant_reference],
      ["Account", found.account],
      ["Response code", found.response_code && (CODES[found.response_code] ?? String(found.response_code))],
      ["Authorisation code", found.auth_code],
      ["Address check", found.avs_response && (AVS[found.avs_response] ?? found.avs_response)],
      ["Fraud filters", found.fraud_filters?.map((item) => h("div", {}, `${item.fraudFilter}: ${item.fraudAction}`))],
    ],
    amountOf: (event) => amountOf(event, found),
  }));
}

export function subscriptionPage(context) {
  return page(context, "Subscription", "subscriptions", (found) => ({
    id: found.subscription_id,
    state: found.status,
    name: found.name,
    amounts: [["Amount", found.amount]],
    facts: [
      ["Name", found.name],
      ["Account", found.account],
      ["Customer profile", found.customer_profile_id],
      ["Payment profile", found.payment_profile_id],
      ["Shipping address", found.shipping_address_id],
      ["Last failure", found.last_failure_at && when(found.last_failure_at)],
      ["Its error", found.last_failure_error],
      [
        "Its transaction",
        found.last_failure_transaction_id &&
          h(
            "a",
            { href: href(["transactions", found.account, found.last_failure_transaction_id]) },
            found.last_failure_transaction_id,
          ),
      ],
    ],
    amountOf: () => null,
  }));
}

function page(context, word, folder, read) {
  const {
    root,
    args: [account, id],
    signal,
  } = context;
  context.title(`${word} ${id}`);
  return load(root, async () => {
    const found = await get(`/webhooks/${folder}/${encodeURIComponent(id)}`, { account }, signal);
    return build(word, found, read(found));
  });
}

function build(word, found, view) {
  const bad = found.events.filter((event) => event.status === "dead" && !event.discarded_at);
  const table = eventTable({
    caption: `Events of this ${word.toLowerCase()}, oldest first`,
    brief: true,
    timeHead: "Happened",
    time: (row) => row.event_date ?? row.received_at,
  });
  table.add(found.events);
  return [
    h(
      "nav",
      { class: "crumbs", "aria-label": "Where this is" },
      h("a", { href: href(["events"]) }, "Events"),
      icon("next", 12),
      h("span", {}, `${word} ${view.id}`),
    ),
    h(
      "section",
      { class: "story plain" },
      h("h1", { tabindex: "-1" }, `${word} ${view.id}`),
      h("p", { class: "lead" }, lead(word, view, found)),
      bad.length > 0 && h("p", { class: "warning" }, icon("warn"), deadWords(bad)),
      h(
        "dl",
        { class: "amounts" },
        view.amounts
          .filter(([, value]) => value !== null && value !== undefined)
          .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
      ),
    ),
    section(
      "Along time",
      found.events.length > 0
        ? timelineChart(found.events, view.amountOf)
        : emptyState("No events are kept", "The facts below come from events that are no longer stored."),
    ),
    h(
      "div",
      { class: "columns" },
      h("div", { class: "main-column" }, section("Events", h("div", { class: "list" }, table.node))),
      h("div", { class: "side-column" }, section("Details", facts(view.facts))),
    ),
  ];
}

function lead(word, view, found) {
  if (!view.state) return `Nothing is known of this ${word.toLowerCase()} yet: none of its events is processed.`;
  return [
    "Now ",
    h("strong", {}, view.state),
    ". The last event that counts: ",
    typeWords(found.last_event_type),
    ", ",
    when(found.last_event_at),
    ".",
  ];
}

function deadWords(bad) {
  const one = bad.length === 1;
  return [
    one
      ? " One event is dead, so the facts here may be behind: "
      : ` ${bad.length} events are dead, so the facts here may be behind: `,
    bad
      .slice(0, 3)
      .map((event, i) => [i > 0 && ", ", h("a", { href: href(["events", event.id]) }, typeWords(event.event_type))]),
  ];
}

/** The amount that belongs beside a mark. Rows carry none, so it comes from the facts that the event has set. */
function amountOf(event, found) {
  if (event.status !== "processed") return null;
  const kind = event.event_type.split(".").at(-2);
  if (kind === "authorization") return found.authorized_amount;
  if (kind === "refund") return found.refunded_amount;
  return ["authcapture", "capture", "priorAuthCapture"].includes(kind) ? found.captured_amount : null;
}
