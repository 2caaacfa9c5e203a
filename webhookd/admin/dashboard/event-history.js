// The past of an event: its failed attempts with their errors, and the audit trail.

import { h } from "./dom.js";
import { localTime, bothZones } from "./format.js";
import { chip, statusTone, when } from "./parts.js";

const SHOWN = 5;

/** Returns the failed attempts of each consumer. Consumers are named only if one is not the handlers. */
export function attempts(list) {
  const consumers = new Map(list.map(({ consumer }) => [consumer, list.filter((item) => item.consumer === consumer)]));
  if (consumers.size === 1 && consumers.has("handlers")) return attemptsOf(list);
  return [...consumers].map(([consumer, items]) => [h("h3", {}, `Of ${consumer}`), attemptsOf(items)]);
}

/** Returns one consumer's attempts, newest first. A repeated error is shown once, and older attempts are folded away. */
function attemptsOf(list) {
  const newest = list.toReversed();
  const rows = newest.map((item, i) => attempt(item, item.error === newest[i - 1]?.error));
  const older = rows.slice(SHOWN);
  return [
    h("ol", { class: "attempts" }, rows.slice(0, SHOWN)),
    older.length > 0 &&
      h(
        "details",
        { class: "more" },
        h("summary", {}, older.length === 1 ? "1 earlier attempt" : `${older.length} earlier attempts`),
        h("ol", { class: "attempts" }, older),
      ),
  ];
}

function attempt(item, same) {
  return h(
    "li",
    {},
    h(
      "div",
      { class: "attempt-head" },
      h("strong", {}, `Attempt ${item.attempt}`),
      chip(item.outcome, item.outcome === "dead" ? "Gave up" : "Failed"),
      when(item.at),
      same && h("span", { class: "attempt-same" }, "with the same error"),
    ),
    !same &&
      h(
        "pre",
        { class: "code wrap", tabindex: 0, "aria-label": `Error of attempt ${item.attempt} of ${item.consumer}` },
        item.error,
      ),
  );
}

/**
 * Returns every change of status: to which status, by whom, why. The error of a failed attempt is left out, since the
 * list of attempts shows it. Consumers are named only if one is not the handlers: else each change would say the same.
 */
export function trail({ audit, failed_attempts: failed }) {
  const name = ({ consumer, at }) => `${consumer} ${at}`; // each consumer counts its attempts, and anew after a redrive
  const told = new Set(failed.map(name));
  const several = audit.some(({ consumer }) => consumer && consumer !== "handlers");
  return h(
    "ol",
    { class: "trail" },
    audit.map((entry) =>
      h(
        "li",
        { class: statusTone(entry.to_status) },
        h(
          "div",
          { class: "trail-head" },
          chip(entry.to_status),
          h("time", { datetime: entry.at, title: bothZones(entry.at) }, localTime(entry.at)),
        ),
        h(
          "div",
          { class: "trail-text" },
          `by ${entry.actor}`,
          several && entry.consumer ? ` for ${entry.consumer}` : "",
          entry.attempt ? `, attempt ${entry.attempt}` : "",
          entry.reason && !told.has(name(entry)) && h("p", { class: "trail-reason" }, entry.reason),
        ),
      ),
    ),
  );
}
