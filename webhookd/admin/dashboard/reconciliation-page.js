// The reconciliation of an account: each settlement day, its differences with what to do, and why a day is not known.

import { get } from "./api.js";
import { h } from "./dom.js";
import { count, money, plural, sentence } from "./format.js";
import { icon } from "./icons.js";
import { go, href, timelineOf } from "./navigation.js";
import { button, chip, facts, heading, load, section, table, when } from "./parts.js";
import { PROVIDER } from "./provider.js";

const DAY = 86_400_000; // milliseconds
const SHOWN = 14; // days, if the address names none
const MOST = 50; // differences of a day
const BOOKS = { webhookd: "webhookd", shop: "The shop", provider: "Another row of the provider" };
const utc = new Intl.DateTimeFormat("en-GB", {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
  timeZone: "UTC",
});

export function reconciliationPage(context) {
  const {
    root,
    args: [account],
    query,
  } = context;
  context.title(`Reconciliation of ${account}`);
  const from = query.get("from") ?? ago(SHOWN);
  const to = query.get("to") ?? ago(1);
  const report = h("div");
  root.append(
    h(
      "nav",
      { class: "crumbs", "aria-label": "Where this is" },
      h("a", { href: href(["provider"]) }, "Provider"),
      icon("next", 12),
      h("a", { href: href(["provider", account]) }, account),
      icon("next", 12),
      h("span", {}, "Reconciliation"),
    ),
    heading("Reconciliation"),
    h(
      "p",
      { class: "lead" },
      "Authorize.Net's settlement days, compared with the books of webhookd and of the shop. ",
      h("a", { href: "/guide/reconcile" }, "How this is judged"),
    ),
    daysForm(account, from, to),
    report,
  );
  const path = `${PROVIDER}/${encodeURIComponent(account)}/reconciliation`;
  const read = async () => {
    const [days, subscriptions] = await Promise.all([
      get(path, { from, to, most: MOST }, context.signal),
      get(`${path}/subscriptions`, { most: MOST }, context.signal),
    ]);
    return build(account, days, subscriptions);
  };
  load(report, read, 8);
}

function ago(days) {
  return new Date(Date.now() - days * DAY).toISOString().slice(0, 10);
}

function daysForm(account, from, to) {
  return h(
    "form",
    { class: "filters unfolded", "aria-label": "Days", onsubmit: (event) => submit(event, account) },
    h(
      "div",
      { class: "filter-row" },
      dayField("from", "From", from),
      dayField("to", "To", to),
      button("Show", null, { type: "submit" }),
    ),
  );
}

function dayField(name, label, value) {
  const id = `reconciliation-${name}`;
  return h("label", { class: "field", for: id }, label, h("input", { id, name, type: "date", value, required: true }));
}

function submit(event, account) {
  event.preventDefault();
  const given = new FormData(event.currentTarget);
  go(["reconciliation", account], { from: given.get("from"), to: given.get("to") });
}

function build(account, { days }, subscriptions) {
  const counts = new Map();
  for (const { result } of days) counts.set(result, (counts.get(result) ?? 0) + 1);
  return h(
    "div",
    {},
    h(
      "p",
      { class: "lead" },
      [...counts].map(([result, number]) => [chip(result), ` ${plural(number, "day")} `]),
    ),
    subscriptionSection(account, subscriptions),
    days.toReversed().map((day) => daySection(account, day)),
  );
}

function subscriptionSection(account, found) {
  const more = found.difference_count - found.differences.length;
  return section(
    "Subscriptions",
    h("p", {}, chip(found.result), " compared a day after their last change, with renewals of the last 14 days"),
    facts([
      ["Listed", when(found.listed_at)],
      ["As of", when(found.as_of)],
    ]),
    found.reasons.length > 0 && reasons({ reasons: found.reasons, reason_count: found.reasons.length }),
    found.differences.length > 0 && [
      h("h3", {}, plural(found.difference_count, "difference")),
      h(
        "ul",
        { class: "findings" },
        found.differences.map((row) =>
          h(
            "li",
            {},
            h(
              "p",
              {},
              h("strong", {}, row.kind),
              ": ",
              h("a", { href: timelineOf("subscription", account, row.subscription_id) }, h("code", {}, row.subscription_id)),
            ),
            h("p", {}, `Provider: ${side(row.provider)}. webhookd: ${side(row.other)}.`),
            h("p", {}, withCode(row.to_do)),
          ),
        ),
      ),
      more > 0 && h("p", { class: "note" }, `And ${plural(more, "difference")} more: webhookd reconcile names them all.`),
    ],
  );
}

function daySection(account, day) {
  return section(
    day.day,
    h("p", {}, chip(day.result), ` ${limit(day.begins)} to ${limit(day.ends)} UTC; the zone is ${day.zone}`),
    facts([
      ["Matched", count(day.matched)],
      ["Without money", count(day.without_money)],
      ["Charged", money(day.charged)],
      ["Refunded", money(day.refunded)],
      ["Batches", day.batches.join(", ")],
      ["Shop", day.shop_compared ? "compared" : null],
      ["As of", when(day.as_of)],
    ]),
    day.reasons.length > 0 && reasons(day),
    day.differences.length > 0 && differences(account, day),
    day.totals.length > 0 && totals(day),
  );
}

function limit(iso) {
  return utc.format(new Date(iso));
}

function reasons(day) {
  const more = day.reason_count - day.reasons.length;
  return [
    h("h3", {}, "Not known yet"),
    h(
      "ul",
      { class: "plain" },
      day.reasons.map((reason) => h("li", {}, sentence(reason))),
      more > 0 && h("li", {}, `And ${plural(more, "reason")} more.`),
    ),
  ];
}

function differences(account, day) {
  const more = day.difference_count - day.differences.length;
  return [
    h("h3", {}, plural(day.difference_count, "difference")),
    h(
      "ul",
      { class: "findings" },
      day.differences.map((row) =>
        h(
          "li",
          {},
          h("p", {}, h("strong", {}, row.kind), ": ", subject(account, row)),
          h("p", {}, `Provider: ${side(row.provider)}. ${BOOKS[row.books] ?? row.books}: ${side(row.other)}.`),
          h("p", {}, withCode(row.to_do)),
        ),
      ),
    ),
    more > 0 && h("p", { class: "note" }, `And ${plural(more, "difference")} more: webhookd reconcile names them all.`),
  ];
}

/** Returns a text whose parts between backticks are code. */
function withCode(text) {
  return text.split("`").map((part, i) => (i % 2 === 1 ? h("code", {}, part) : part));
}

function subject(account, row) {
  const links = row.transactions.map((id) => {
    const page = timelineOf("transaction", account, id);
    return row.links.includes(`/${page}`) ? h("a", { href: page }, h("code", {}, id)) : h("code", {}, id);
  });
  const parts = row.transactions.includes(row.subject) ? [] : [h("code", {}, row.subject), " "];
  return [...parts, links.flatMap((link, i) => (i === 0 ? [link] : [" ", link]))];
}

function side(value) {
  return value === null ? "nothing" : money(value);
}

function totals(day) {
  return h(
    "details",
    {},
    h("summary", {}, "Sums by type of card"),
    table(
      `Sums of ${day.day}`,
      ["Batch", "Type", "Line", "Sum of the transactions"],
      day.totals.map((row) => [row.batch_id, row.account_type || "not named", row.line, money(row.value)]),
    ),
  );
}
