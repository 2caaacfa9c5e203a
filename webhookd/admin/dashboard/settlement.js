// What no webhook reports: the settlement of a transaction with its refunds, and the payments of a subscription.

import { h } from "./dom.js";
import { money, plural } from "./format.js";
import { timelineOf } from "./navigation.js";
import { facts, section, table, when } from "./parts.js";

/** Returns the amounts that the settlement adds to those of the events. */
export function settledAmounts(found) {
  const own = found.settlement;
  if (!own) return [];
  return [
    ["Settled", own.settled_amount],
    ["Refunds settled", own.refunds?.settled > 0 ? own.refunds.settled_amount : null],
    ["Left", own.left_amount !== own.settled_amount ? own.left_amount : null],
  ];
}

/** Returns the settlement of a transaction. `link` makes the id of another entity, with a link if it has a timeline. */
export function transactionSettlement(found, link) {
  const own = found.settlement;
  if (!own) return null;
  const { refunds } = own;
  return section(
    "Settlement",
    facts([
      ["State", own.state],
      ["Authorize.Net’s status", own.status],
      ["Amount to settle", own.settled_amount === null ? money(own.amount) : null],
      ["Batch", own.batch_id],
      ["Settled", own.settled_at && when(own.settled_at)],
      ["Returned", own.returned.length === 0 ? null : own.returned.map((one) => h("div", {}, one.code ?? "", " ", when(one.returned_at)))],
      ["Refund of", own.ref_transaction_id && link("transaction", own.ref_transaction_id)],
      ["Refunds on their way", refunds?.pending > 0 ? `${refunds.pending}, ${money(refunds.pending_amount)}` : null],
      ["Refunds that failed", refunds?.failed > 0 ? String(refunds.failed) : null],
      [
        "Refunds",
        refunds?.transactions.length > 0
          ? refunds.transactions.map((one) =>
              h("div", {}, link("transaction", one.transaction_id), ` ${one.state}, ${money(one.amount)}`),
            )
          : null,
      ],
      ["Subscription", own.subscription_id && link("subscription", own.subscription_id)],
      ["Payment number", own.payment_number],
      ["Reported", when(own.seen_at)],
    ]),
  );
}

/** Returns the payments of a subscription, and the renewals that did not come. */
export function subscriptionSettlement(found, link) {
  const own = found.settlement;
  if (!own) return null;
  return section(
    "Payments",
    missedNote(own.missed),
    facts([
      ["Authorize.Net’s status", own.status],
      ["Interval", own.interval_length && plural(own.interval_length, own.interval_unit === "months" ? "month" : "day")],
      ["Card expires", own.card_expires],
    ]),
    own.payments.length > 0 ? payments(own.payments, link) : h("p", { class: "faint" }, "No payment is known yet."),
  );
}

/** Returns the list of an account's renewals that did not come; null if there are none. */
export function missedRenewals(rows, account) {
  if (rows.length === 0) return null;
  const lines = rows.map((row) => [
    h("a", { href: timelineOf("subscription", account, row.subscription_id) }, row.subscription_id),
    row.expected_on,
    row.amount === null ? "–" : money(row.amount),
    row.status ?? "",
  ]);
  const heads = ["Subscription", "Due on", "Amount", "Status"];
  return section("Renewals that did not come", table("Renewals that did not come, the newest first", heads, lines));
}

function missedNote(missed) {
  const waiting = missed.filter((one) => !one.came_at);
  if (waiting.length === 0) return null;
  const days = waiting.map((one) => one.expected_on).join(", ");
  return h("p", { class: "warning" }, `${plural(waiting.length, "renewal")} did not come. Due on: ${days}.`);
}

function payments(rows, link) {
  const heads = ["Payment", "State", "Transaction", "Settled", "Attempts", "Last failure"];
  const lines = rows.map((row) => [
    row.payment_number ?? "–",
    row.state ?? "not seen yet",
    row.transaction_id ? link("transaction", row.transaction_id) : "–",
    row.settled_amount === null ? "–" : money(row.settled_amount),
    row.attempts,
    row.last_failure ?? "",
  ]);
  return table("Payments of this subscription, by their numbers", heads, lines);
}
