// Bulk work in a dialog: a dry run that counts first, then a confirmation, then the progress.

import { isLeft } from "./api.js";
import { openDialog } from "./dialogs.js";
import { h, show } from "./dom.js";
import { plural } from "./format.js";
import { href } from "./navigation.js";
import { breakdown, cancelButton, follow, isOver, progress } from "./operation-parts.js";
import { button, errorState } from "./parts.js";

/**
 * Opens the dialog. The promise returns the operation that was started, or null.
 * submit({dryRun, reason, rate}): starts the operation and returns it.
 * verb: "Redrive", "Discard" or "Replay".
 * sure: skips the dry run, if the events were chosen by hand and their number is known.
 */
export function bulkDialog({
  title,
  verb,
  text,
  warning,
  submit,
  sure = null,
  withRate = false,
  reason = "",
  rate = 20,
  danger = false,
  signal,
}) {
  let started = null;
  return openDialog(
    title,
    (close) => {
      const body = h("div", { class: "stack" });
      const work = new AbortController();
      signal.addEventListener("abort", () => work.abort(), { once: true });
      const end = () => {
        work.abort();
        close(started);
      };
      const ask = (counted) =>
        show(
          body,
          askForm({
            counted,
            verb,
            text,
            warning,
            withRate,
            reason,
            rate,
            danger,
            cancel: end,
            start: (values) =>
              attempt(async () => {
                started = await submit({ dryRun: false, ...values });
                const last = await follow(started, (now) => show(body, running(now, end, verb)), work.signal);
                show(body, running(last, end, verb));
              }),
          }),
        );
      const attempt = async (step) => {
        try {
          await step();
        } catch (error) {
          if (!isLeft(error))
            show(body, errorState(error), h("div", { class: "actions" }, button("Close", end, { kind: "quiet" })));
        }
      };
      if (sure !== null) ask({ total: sure });
      else {
        attempt(async () => {
          const trial = await submit({ dryRun: true, reason: reason || "dry run", rate });
          const counted = await follow(
            trial,
            (now) =>
              show(
                body,
                h("p", {}, "Dry run: nothing changes yet."),
                progress(now),
                h("div", { class: "actions" }, button("Close", end, { kind: "quiet" })),
              ),
            work.signal,
          );
          if (counted.state === "done") ask(counted);
          else show(body, progress(counted), h("div", { class: "actions" }, button("Close", end)));
        });
      }
      return body;
    },
    signal,
  ).then(() => started);
}

function askForm({ counted, verb, text, warning, withRate, reason, rate, danger, cancel, start }) {
  if (counted.total === 0) {
    return [
      h("p", {}, "No event matches. There is nothing to do."),
      h("div", { class: "actions" }, button("Close", cancel, { kind: "primary" })),
    ];
  }
  const note = h("input", {
    type: "text",
    maxlength: 500,
    autocomplete: "off",
    value: reason,
    autofocus: true,
    required: verb === "Replay",
  });
  const pace = h("input", { type: "number", min: 0.1, max: 10000, step: "any", value: rate, required: true });
  const submit = (event) => {
    event.preventDefault();
    start({ reason: note.value.trim(), rate: withRate ? Number(pace.value) : undefined });
  };
  return h(
    "form",
    { class: "stack", onsubmit: submit },
    h("p", { class: "big" }, plural(counted.total, "event"), counted.event_types ? " match." : " chosen."),
    counted.event_types && breakdown(counted),
    text && h("p", {}, text),
    warning && h("p", { class: "warning" }, warning),
    h(
      "div",
      { class: "field-row" },
      h("label", { class: "field grow" }, verb === "Replay" ? "Reason" : "Reason (goes into the audit trail)", note),
      withRate && h("label", { class: "field" }, "Events per second", pace),
    ),
    h(
      "div",
      { class: "actions" },
      button("Cancel", cancel, { kind: "quiet" }),
      button(`${verb} ${plural(counted.total, "event")}`, null, {
        kind: danger ? "danger" : "primary",
        type: "submit",
      }),
    ),
  );
}

function running(operation, end, verb) {
  return [
    progress(operation),
    !isOver(operation) &&
      h("p", { class: "faint" }, "You can close this dialog. The work continues, even if the daemon restarts."),
    h(
      "div",
      { class: "actions" },
      !isOver(operation) && cancelButton(operation, () => {}),
      h(
        "a",
        { class: "button", href: href(["operations", operation.id]), onclick: () => end() },
        `See this ${verb.toLowerCase()}`,
      ),
      button(isOver(operation) ? "Close" : "Continue in the background", end, { kind: "primary" }),
    ),
  ];
}
