// The verdict in words: whether all is well, or what is wrong and where to look.

import { count, duration, localTime, named, plural } from "./format.js";
import { href } from "./navigation.js";

const LONG_WAIT = 120;
const NAMES = { postgresql: "PostgreSQL", redis: "Redis", sqs: "SQS" };
const MEANING = {
  postgresql: "webhookd answers webhooks with 503, and Authorize.Net sends them again later.",
  redis: "webhookd works with PostgreSQL alone, only slower.",
  sqs: "Webhooks are still accepted. They wait in the outbox, and webhookd sends them once SQS is back.",
};
const WHAT_TO_DO = {
  postgresql: "/guide/runbook-storage#webhookdpostgresqldown",
  redis: "/guide/runbook-storage#webhookdredisdown",
  sqs: "/guide/runbook-queue#webhookdsqsdown",
};
const WEBHOOKS = {
  inactive: "is inactive, so Authorize.Net sends nothing",
  missing: "is not registered, so Authorize.Net sends nothing",
  url: "sends to another URL",
  event_types: "has lost event types",
  doubled: "is registered twice, so each event comes twice",
};
export const UNFINISHED = ["received", "queued", "retrying"];

export function dependencyName(name) {
  return NAMES[name] ?? name;
}

/** Returns a list of {tone, text, detail?, link?: {href, label}}, worst first; empty if all is well. */
export function findProblems({ stats, health, accounts }) {
  if (!stats) return dependencies(health);
  const found = [deadEvents, failingDestinations, deadDeliveries, oldest, quarantine].flatMap((look) => look(stats));
  const provider = accounts.flatMap((row) => (row.held ? providersSide(row) : unattended(row)));
  return [...dependencies(health), ...found, ...provider].sort((one, other) => rank(one) - rank(other));
}

function rank({ tone }) {
  return tone === "bad" ? 0 : 1;
}

function dependencies(health) {
  const away = Object.entries(health?.dependencies ?? {}).filter(([, state]) => !state.up);
  const stopping = health?.stopping
    ? [{ tone: "warn", text: "This daemon is shutting down.", detail: "It finishes what it has accepted." }]
    : [];
  return [
    ...away.map(([name, state]) => ({
      tone: name === "redis" ? "warn" : "bad",
      text: `${dependencyName(name)} is away: ${state.problem ?? "it does not answer"}`,
      detail: MEANING[name],
      link: { href: WHAT_TO_DO[name], label: "What to do" },
    })),
    ...stopping,
  ];
}

function deadEvents({ now, totals, window }) {
  if (!now.statuses.dead) return [];
  const text =
    now.statuses.dead === 1 ? "1 event is dead" : `${count(now.statuses.dead, now.capped_at)} events are dead`;
  return [
    {
      tone: "bad",
      text: `${text} and wait for a decision.`,
      detail: totals.dead ? `${plural(totals.dead, "death")} in the last ${duration(window)}.` : null,
      link: { href: href(["dead-letters"]), label: "See why" },
    },
  ];
}

function failingDestinations({ now }) {
  return now.destinations
    .filter((row) => row.opened_at)
    .map(({ name, opened_at: openedAt, waiting, retrying }) => ({
      tone: "bad",
      text: `The destination ${name} fails, and gets only probes.`,
      detail: `Since ${localTime(openedAt)}. Left to deliver: ${count(waiting + retrying, now.capped_at)}.`,
      link: { href: href(["destinations", name]), label: "See why" },
    }));
}

function deadDeliveries({ now }) {
  return now.destinations
    .filter((row) => row.dead > 0)
    .map(({ name, dead }) => ({
      tone: "bad",
      text: dead === 1 ? `1 delivery to ${name} is dead.` : `${count(dead, now.capped_at)} deliveries to ${name} are dead.`,
      link: { href: href(["destinations", name]), label: "See why" },
    }));
}

function oldest({ now, series }) {
  const age = now.oldest_unfinished_seconds ?? 0;
  if (age < LONG_WAIT) return [];
  const known = series
    .map((point) => point.oldest_unfinished_seconds)
    .filter((value) => value !== null)
    .slice(-4);
  const growing = known.length > 1 && known.every((value, i) => i === 0 || value >= known[i - 1]);
  return [
    {
      tone: "warn",
      text: `The oldest unfinished event has waited for ${duration(age)}${growing ? ", and the wait grows" : ""}.`,
      link: { href: href(["events"], { status: UNFINISHED }), label: "See unfinished events" },
    },
  ];
}

function quarantine({ now }) {
  if (!now.quarantine) return [];
  return [
    {
      tone: "warn",
      text: `${plural(now.quarantine, "body", "bodies")} ${now.quarantine === 1 ? "waits" : "wait"} in quarantine.`,
      link: { href: href(["quarantine"]), label: "Look at them" },
    },
  ];
}

/** The state of an account that no replica asks for any more is old. After three days, its credentials were removed on purpose. */
function unattended({ account, unattended: recently }) {
  if (!recently) return [];
  return [
    {
      tone: "warn",
      text: `No replica asks Authorize.Net for the account ${account}.`,
      detail: "Webhooks still come, and nobody knows whether some are missing.",
      link: { href: href(["provider", account]), label: "See why" },
    },
  ];
}

function providersSide({ account, webhook_state: state, webhook_id: known, credentials, uncompared, days_not_whole: days }) {
  const link = { href: href(["provider", account]), label: "See why" };
  return [
    named(WEBHOOKS, state) !== state && {
      tone: state === "doubled" ? "warn" : "bad",
      text: `The webhook of ${account} ${WEBHOOKS[state]}.`,
      link,
    },
    state === "unknown" &&
      known && {
        tone: "bad",
        text: `The webhook of ${account} is not known, so it may get nothing.`,
        link,
      },
    credentials === "refused" && {
      tone: "warn",
      text: `Authorize.Net refuses the API credentials of ${account}.`,
      detail: "Webhooks still come, and nobody knows whether some are missing.",
      link,
    },
    uncompared &&
      credentials !== "refused" && {
        tone: "warn",
        text: `The account ${account} has not been compared with Authorize.Net's history for two hours.`,
        detail: "Webhooks still come, and nobody knows whether some are missing.",
        link,
      },
    days > 0 && {
      tone: "warn",
      text: days === 1 ? `1 day of ${account} is not whole.` : `${days} days of ${account} are not whole.`,
      detail: "Events may be missing.",
      link,
    },
  ].filter(Boolean);
}
