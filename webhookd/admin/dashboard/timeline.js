// The life of one transaction, subscription, customer or payment profile: its facts, its events along time, and their list.

import { get } from "./api.js";
import { h } from "./dom.js";
import { eventTable } from "./event-table.js";
import { isFailure, noteOf } from "./event-note.js";
import { typeWords } from "./event-words.js";
import { money, named, plural } from "./format.js";
import { icon } from "./icons.js";
import { href, timelineOf } from "./navigation.js";
import { emptyState, facts, load, section, when } from "./parts.js";
import { settledAmounts, subscriptionSettlement, transactionSettlement } from "./settlement.js";
import { timelineChart } from "./timeline-chart.js";

const CODES = {
  1: "1, approved",
  2: "2, declined",
  3: "3, error",
  4: "4, held for review",
  8: "8, declined",
};
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
    amounts: [...amounts(found), ...settledAmounts(found)],
    beside: transactionSettlement(found, (name, id) => related(found, name, id)),
    facts: [
      ["Invoice", found.invoice_number],
      ["Merchant reference", found.merchant_reference],
      ["Account", found.account],
      ["Response code", codeWords(found.response_code)],
      ["Authorisation code", found.auth_code],
      ["Address check", found.avs_response && named(AVS, found.avs_response)],
      ["Fraud filters", found.fraud_filters?.map((item) => h("div", {}, `${item.fraudFilter}: ${item.fraudAction}`))],
      ["Last failure", found.last_failure_at && failureFacts(found)],
    ],
  }));
}

export function subscriptionPage(context) {
  return page(context, "Subscription", "subscriptions", (found) => ({
    id: found.subscription_id,
    state: found.status,
    amounts: [["Amount", found.amount ?? found.settlement?.amount]],
    below: subscriptionSettlement(found, (name, id) => related(found, name, id)),
    facts: [
      ["Name", found.name],
      ["Account", found.account],
      ["Customer profile", related(found, "customerProfile", found.customer_profile_id)],
      ["Payment profile", related(found, "customerPaymentProfile", found.payment_profile_id)],
      ["Shipping address", found.shipping_address_id],
      ["Last failure", found.last_failure_at && when(found.last_failure_at)],
      ["Error of the failure", found.last_failure_error],
      ["Failed transaction", related(found, "transaction", found.last_failure_transaction_id)],
    ],
  }));
}

export function customerPage(context) {
  return page(context, "Customer profile", "customers", (found) => ({
    id: found.customer_profile_id,
    state: found.state,
    amounts: [],
    facts: [
      ["Merchant's customer id", found.merchant_customer_id],
      ["Account", found.account],
      [
        "Payment profiles",
        found.payment_profile_ids?.length > 0 &&
          found.payment_profile_ids.map((id) => h("div", {}, related(found, "customerPaymentProfile", id))),
      ],
    ],
  }));
}

export function paymentProfilePage(context) {
  return page(context, "Payment profile", "payment-profiles", (found) => ({
    id: found.payment_profile_id,
    state: found.state,
    amounts: [],
    facts: [
      ["Customer profile", related(found, "customerProfile", found.customer_profile_id)],
      ["Customer type", found.customer_type],
      ["Account", found.account],
    ],
  }));
}

/** Returns the amounts. The requested amount is shown only if no amount was authorised, captured or refunded. */
function amounts(found) {
  const settled = [
    ["Authorised", found.authorized_amount],
    ["Captured", found.captured_amount],
    ["Refunded", found.refunded_amount],
  ].filter(([, value]) => value !== null);
  return settled.length > 0 ? settled : [["Requested", found.requested_amount]];
}

function codeWords(code) {
  if (code === null || code === undefined) return null;
  return CODES[code] ?? `${code}, which reports no state`;
}

/** Returns the id of another entity, as a link if it has a timeline. Without a timeline, the link would lead nowhere. */
function related(found, entityName, id) {
  const known = found.related.some((other) => other.entity_name === entityName && other.entity_id === id);
  return known ? h("a", { href: timelineOf(entityName, found.account, id) }, id) : id;
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
      failureNote(word, found),
      bad.length > 0 && h("p", { class: "warning" }, icon("warn"), deadWords(bad)),
      h(
        "dl",
        { class: "amounts" },
        view.amounts
          .filter(([, value]) => value !== null && value !== undefined)
          .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, money(value)))),
      ),
    ),
    section(
      "Timeline",
      found.events.length > 0
        ? timelineChart(found.events, (event) => noteOf(event, found))
        : emptyState("No events are kept", "The facts below come from Authorize.Net, or from events that are no longer stored."),
    ),
    h(
      "div",
      { class: "columns" },
      h("div", { class: "main-column" }, view.below, section("Events", h("div", { class: "list" }, table.node))),
      h("div", { class: "side-column" }, view.beside, section("Details", facts(view.facts))),
    ),
  ];
}

function lead(word, view, found) {
  const noun = word.toLowerCase();
  const last = found.last_event_type && [typeWords(found.last_event_type), ", ", when(found.last_event_at)];
  if (found.settlement && found.events.length === 0) {
    const state = found.settlement.state ?? found.settlement.status;
    return [`No event of this ${noun} is stored. Authorize.Net reports`, state && [": ", h("strong", {}, state)], "."];
  }
  if (view.state) {
    return ["Now ", h("strong", {}, view.state), ".", last && [" The last event that counts: ", last, "."]];
  }
  if (last && !isNone(found.response_code)) {
    return [
      `No event reports the state of this ${noun}. The last event, `,
      last,
      `, has the response code ${found.response_code}, which reports no state. ` +
        "The “Test Webhook” button of the Merchant Interface sends such events.",
    ];
  }
  if (last) return [`No event reports the state of this ${noun}. The last event: `, last, "."];
  if (found.last_failure_type) return `No event reports the state of this ${noun}. An attempt to change it failed.`;
  if (found.events.some((event) => event.status === "processed")) {
    return `The events of this ${noun} are processed, but none of them reports the state.`;
  }
  return `Nothing is known about this ${noun} yet: none of its events is processed.`;
}

function isNone(value) {
  return value === null || value === undefined;
}

/** Returns a note if a void or a capture failed after the last event that counts. The details show an older failure. */
function failureNote(word, found) {
  if (!isFailure(found)) return null;
  return h(
    "p",
    { class: "warning failure" },
    icon("warn"),
    ` The last attempt to change this ${word.toLowerCase()} failed: `,
    failureFacts(found),
    found.last_event_type && `. The ${word.toLowerCase()} stays as it was`,
    ".",
  );
}

function failureFacts(found) {
  const code = isNone(found.last_failure_code) ? "no response code" : `response code ${codeWords(found.last_failure_code)}`;
  return [typeWords(found.last_failure_type), ", ", code, ", ", when(found.last_failure_at)];
}

function deadWords(bad) {
  return [
    ` ${bad.length === 1 ? "One event is" : `${plural(bad.length, "event")} are`} dead, so the facts here may be out of date: `,
    bad
      .slice(0, 3)
      .map((event, i) => [i > 0 && ", ", h("a", { href: href(["events", event.id]) }, typeWords(event.event_type))]),
  ];
}
