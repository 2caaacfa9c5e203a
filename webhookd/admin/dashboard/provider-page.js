// One account of the provider: its webhook, its days, its credentials, and the last calls of the API.

import { get, isLeft } from "./api.js";
import { every, h, show } from "./dom.js";
import { duration, plural, sentence, shortType } from "./format.js";
import { icon } from "./icons.js";
import { href } from "./navigation.js";
import { chip, errorState, facts, section, skeleton, table, when } from "./parts.js";
import { PROVIDER } from "./provider.js";
import { SHOWN, calendar, dayTable, dayWords, legend } from "./provider-days.js";
import { missedRenewals } from "./settlement.js";

const REFRESH = 5;
const RUNBOOK = "/guide/runbook-provider";
const SENDS = { ok: "Authorize.Net sends its notifications to this webhook.", unknown: "Nobody has looked at the webhook yet." };

export async function providerPage(context) {
  const {
    root,
    args: [account],
    signal,
  } = context;
  context.title(account);
  show(root, skeleton(8));
  const page = { account, context, shown: "" };
  try {
    await refresh(page);
  } catch (error) {
    if (!isLeft(error)) show(root, errorState(error, context.reload, "h1"));
    return;
  }
  // The shell shows that the daemon is away. What the page shows stays.
  every(REFRESH, () => refresh(page).catch(() => {}), signal);
}

async function refresh(page) {
  const { context, account } = page;
  const path = `${PROVIDER}/${encodeURIComponent(account)}`;
  const [found, { days }, { renewals }] = await Promise.all([
    get(path, {}, context.signal),
    get(`${path}/days`, { days: SHOWN }, context.signal),
    get("/webhooks/missed-renewals", { account }, context.signal),
  ]);
  const text = JSON.stringify([found, days, renewals, new Date().getUTCDate()]);
  // Do not build an unchanged page again: a selection or the focus in the page would be lost.
  if (text === page.shown) return;
  page.shown = text;
  const focus = document.activeElement?.dataset?.key;
  show(context.root, build(found, days, renewals));
  if (focus) context.root.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus();
}

function build(found, days, renewals) {
  return [
    h(
      "nav",
      { class: "crumbs", "aria-label": "Where this is" },
      h("a", { href: href(["provider"]), "data-key": "up" }, "Provider"),
      icon("next", 12),
      h("span", {}, found.account),
    ),
    storyPanel(found),
    section(
      "Days",
      days.length === 0
        ? h("p", { class: "faint" }, "No day is compared yet.")
        : [calendar(days), legend(days), dayTable(days, found.account)],
      h(
        "p",
        {},
        h(
          "a",
          { href: href(["reconciliation", found.account]), "data-key": "reconciliation" },
          "Reconciliation of the settlement days",
        ),
      ),
    ),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        { class: "main-column" },
        missedRenewals(renewals, found.account),
        found.unreadable.length > 0 && section("Unreadable notifications", unreadable(found.unreadable)),
        section("Last calls", calls(found.calls)),
        section("Changes at the provider", changes(found.changes)),
        section("Tests", kept(found), tests(found.tests)),
      ),
      h(
        "div",
        { class: "side-column" },
        section("Webhook", webhook(found)),
        section("Credentials", credentials(found)),
        section("Comparison", comparison(found)),
      ),
    ),
  ];
}

function storyPanel(found) {
  const state = found.webhook_state;
  const refused = found.credentials === "refused";
  const late = !found.held || found.uncompared;
  const well = state === "ok" || (state === "unknown" && !found.webhook_id);
  const tone = refused || !(well || state === "doubled") ? "bad" : found.days_not_whole || !well || late ? "warn" : "good";
  return h(
    "section",
    { class: `story ${tone}` },
    h("div", { class: "story-head" }, chip(state), chip(found.credentials)),
    h("h1", { tabindex: "-1" }, found.account),
    found.merchant_name && h("p", { class: "subject" }, found.merchant_name),
    h(
      "p",
      { class: well ? "lead" : "reason" },
      withCode(sentence(found.webhook_detail) || SENDS[state] || "The webhook is not as it must be."),
      !well && [" ", todo(state === "doubled" ? "webhookdwebhookdoubled" : "webhookdwebhooknotok")],
    ),
    refused &&
      h(
        "p",
        { class: "reason" },
        "Authorize.Net has refused the credentials since ",
        when(found.credentials_since),
        ". Nobody knows whether notifications are missing. ",
        todo("webhookdcredentialsrefused"),
      ),
    found.last_day && h("p", { class: "lead" }, h("strong", {}, dayWords(found.last_day))),
    found.days_not_whole > 0 &&
      h(
        "p",
        { class: "lead" },
        `${plural(found.days_not_whole, "day")} of the last 14 ${found.days_not_whole === 1 ? "is" : "are"} not whole. `,
        todo("webhookddaynotwhole"),
      ),
    found.test_mode &&
      h(
        "p",
        { class: "note" },
        icon("warn"),
        "The account is in test mode: no payment settles. If its notifications have the payload id 0, they are kept as tests, " +
          "and none becomes an event.",
      ),
    late &&
      !refused &&
      h(
        "p",
        { class: "note" },
        icon("warn"),
        found.held
          ? "The account has not been compared with the history for two hours. "
          : "No replica asks Authorize.Net for this account now. ",
        todo("webhookdproviderunreachable"),
      ),
  );
}

/** Returns a text whose parts between backticks are code. */
function withCode(text) {
  return text.split("`").map((part, i) => (i % 2 === 1 ? h("code", {}, part) : part));
}

function todo(anchor) {
  return h("a", { href: `${RUNBOOK}#${anchor}`, "data-key": anchor }, "What to do");
}

function webhook(found) {
  return facts([
    ["State", chip(found.webhook_state)],
    ["Since", found.webhook_id && when(found.webhook_since)],
    ["Id", found.webhook_id && h("code", {}, found.webhook_id)],
    ["Looked at", when(found.webhook_seen_at, "never")],
  ]);
}

function credentials(found) {
  return facts([
    ["Since", when(found.credentials_since)],
    ["Accepted", when(found.checked_at, "never")],
    ["Gateway id", found.gateway_id],
    ["Provider", found.provider && h("code", {}, found.provider)],
    ["May not use", found.features_off.join(", ")],
  ]);
}

function comparison(found) {
  return facts([
    ["Ended", when(found.compared_at, "never")],
    ["Done up to", found.compared_to],
  ]);
}

function list(caption, heads, rows, empty) {
  return rows.length === 0 ? h("p", { class: "faint" }, empty) : table(caption, heads, rows);
}

function calls(rows) {
  return list(
    "Calls of Authorize.Net's API, the newest first",
    ["Result", "Call", "At", "Took", "Error"],
    rows.map((row) => [
      chip(row.error ? "failed" : "done"),
      h("code", {}, row.name),
      when(row.at),
      duration(row.seconds),
      row.error ?? "",
    ]),
    "Nobody has asked Authorize.Net yet.",
  );
}

function unreadable(rows) {
  return list(
    "Notifications of the history that cannot become events, the newest first",
    ["Type", "Happened", "Notification", "Reason"],
    rows.map((row) => [
      shortType(row.event_type) || "–",
      when(row.event_date),
      h("code", {}, row.notification_id),
      sentence(row.reason),
    ]),
    "",
  );
}

function changes(rows) {
  return list(
    "Changes that webhookd made at Authorize.Net, the newest first",
    ["Change", "By", "At", "Detail"],
    rows.map((row) => [row.change, row.actor, when(row.at), row.detail ?? ""]),
    "webhookd has changed nothing at Authorize.Net.",
  );
}

function kept(found) {
  const number = found.tests_in_a_week;
  if (number === 0) return null;
  const are = number === 1 ? "was kept as a test" : "were kept as tests";
  return h(
    "p",
    { class: "faint" },
    `${plural(number, "notification")} of the last seven days ${are}: the samples of pings, and notifications with the payload ` +
      "id 0. No handler and no destination gets them.",
  );
}

function tests(rows) {
  return list(
    "Notifications that were kept as tests, the newest first",
    ["Type", "Came", "Verified by the key", "Notification"],
    rows.map((row) => [
      shortType(row.event_type),
      when(row.received_at),
      h("code", {}, row.key_fingerprint),
      h("code", {}, row.notification_id),
    ]),
    "No test has come: no ping's sample, and no notification with the payload id 0.",
  );
}
