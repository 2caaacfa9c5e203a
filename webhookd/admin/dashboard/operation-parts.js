// Bulk work: its progress bar, its counts, and the way to follow it until it ends.

import { get, isLeft, post } from "./api.js";
import { h, pause } from "./dom.js";
import { count, duration, plural, shortType } from "./format.js";
import { icon } from "./icons.js";
import { busy, chip, operateButton } from "./parts.js";
import { toast } from "./toasts.js";

const KINDS = { replay: "Replay", redrive: "Redrive", discard: "Discard", gaps: "Closing gaps" };

/** Returns the kind of an operation in words, with the destination of a replay to a destination. */
export function kindWords({ kind, selection }) {
  return (KINDS[kind] ?? kind) + (selection.destination ? ` to ${selection.destination}` : "");
}

export function isOver(operation) {
  return ["done", "cancelled", "failed"].includes(operation.state);
}

/** Asks for the operation until it has ended; `tell` gets each answer. Returns the last answer. */
export async function follow(operation, tell, signal) {
  let now = operation;
  tell(now);
  while (!isOver(now)) {
    await pause(1, signal);
    try {
      now = await get(`/webhooks/operations/${now.id}`, {}, signal);
    } catch (error) {
      if (isLeft(error) || (error.status > 0 && error.status < 500)) throw error;
      continue;
    }
    tell(now);
  }
  return now;
}

export function progressBar(operation) {
  const total = operation.total ?? 0;
  // A dry run changes no event: the bar is full when all events are counted.
  const passed = operation.dry_run ? total : operation.done + operation.skipped;
  const counting = operation.state === "counting" || operation.total === null;
  const label = `${kindWords(operation)}: ${progressWords(operation)}`;
  return h("progress", {
    class: `bar ${operation.state}`,
    "aria-label": label,
    max: Math.max(1, total),
    value: counting ? null : isOver(operation) && total === 0 ? 1 : passed,
  });
}

export function progressWords(operation) {
  const { state, done, skipped, total } = operation;
  if (state === "counting") return `counting, ${plural(total ?? 0, "event")} so far`;
  if (operation.dry_run) return `${plural(total ?? 0, "event")} would be chosen`;
  const left =
    state === "working" && operation.kind !== "discard" && operation.rate
      ? Math.max(0, (total - done - skipped) / operation.rate)
      : 0;
  return (
    `${count(done)} of ${count(total)} done${skipped ? `, ${count(skipped)} skipped` : ""}` +
    (left > 2 ? `, about ${duration(Math.round(left))} left` : "")
  );
}

/** Returns the state, the bar, the words, the reason to wait, and the error of an operation. */
export function progress(operation) {
  return h(
    "div",
    { class: "progress" },
    h(
      "div",
      { class: "progress-head" },
      chip(operation.state),
      h("span", { "aria-live": "polite" }, progressWords(operation)),
    ),
    !(operation.dry_run && isOver(operation)) && progressBar(operation),
    operation.held_by && !isOver(operation) && h("p", { class: "note" }, icon("clock"), `Waiting: ${operation.held_by}`),
    operation.error && h("p", { class: "problem" }, operation.error),
  );
}

/** Returns the numbers of events by type and by reason, largest first. */
export function breakdown(operation) {
  return h(
    "div",
    { class: "breakdown" },
    counts("By type", operation.event_types, (name) => h("code", {}, shortType(name))),
    // The API counts all reasons after the first 50 together.
    counts("By reason", operation.reasons, (name) => (name === "other" ? "other reasons" : name)),
  );
}

function counts(title, numbers, label) {
  const rows = Object.entries(numbers ?? {}).sort(([, a], [, b]) => b - a);
  if (rows.length === 0) return null;
  return h(
    "table",
    { class: "counts" },
    h("caption", {}, title),
    h(
      "tbody",
      {},
      rows
        .slice(0, 12)
        .map(([name, number]) =>
          h("tr", {}, h("th", { scope: "row" }, label(name)), h("td", { class: "figure" }, count(number))),
        ),
      rows.length > 12 &&
        h("tr", {}, h("th", { scope: "row", class: "faint" }, `and ${rows.length - 12} more`), h("td", {})),
    ),
  );
}

export function cancelButton(operation, done) {
  const node = operateButton(
    "Cancel",
    () =>
      busy(node, async () => {
        done(await post(`/webhooks/operations/${operation.id}/cancel`));
        toast("The operation stops. Finished work stays done.", "warn");
      }),
    { sign: "cross", kind: "small" },
  );
  return node;
}
