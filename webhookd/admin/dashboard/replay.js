// The replay of events that match a filter: dead events anew, or processed events again.

import { mayOperate, post } from "./api.js";
import { bulkDialog } from "./bulk-dialog.js";
import { h, show } from "./dom.js";
import { TEXTS, field, originField, readForm, typeList } from "./filters.js";
import { icon } from "./icons.js";
import { go, href } from "./navigation.js";
import { heading, lookOnlyNote, operateButton } from "./parts.js";
import { toast } from "./toasts.js";

export function replay(context) {
  const { root, query } = context;
  context.title("Replay");
  const force = h("input", { type: "checkbox", id: "replay-force" });
  const choice = field("status", "Which events", query, {
    kind: "select",
    choices: [
      ["dead", "Dead events"],
      ["processed", "Processed events, again"],
      ["both", "Dead and processed events"],
    ],
  });
  const status = choice.querySelector("select");
  const warning = h(
    "div",
    { class: "warning" },
    h(
      "p",
      {},
      icon("warn"),
      h("strong", {}, " Processed events have had their effects. "),
      "A replay runs their handlers again: bookings and messages happen twice, unless the handlers prevent it. " +
        "The audit trail records each new run.",
    ),
    h("label", { class: "check-line" }, force, " I want the effects of processed events to happen again"),
  );
  const form = h(
    "form",
    { class: "panel form stack", onsubmit: (event) => submit(event, { form, force, context }) },
    typeList(),
    h("h2", {}, "Choose events"),
    h(
      "div",
      { class: "filter-row" },
      choice,
      field("event_type", "Type", query, { kind: "types" }),
      field("received_from", "Received from", query, { kind: "time" }),
      field("received_to", "to", query, { kind: "time" }),
    ),
    h(
      "div",
      { class: "filter-row" },
      TEXTS.map(([name, label, placeholder]) => field(name, label, query, { placeholder })),
      originField(query),
    ),
    warning,
    h("h2", {}, "How"),
    h(
      "div",
      { class: "filter-row" },
      h(
        "label",
        { class: "field grow" },
        "Reason (goes into the audit trail)",
        h("input", {
          name: "reason",
          type: "text",
          required: true,
          maxlength: 500,
          autocomplete: "off",
          placeholder: "Bookkeeping was down on Tuesday",
        }),
      ),
      h(
        "label",
        { class: "field" },
        "Events per second",
        h("input", { name: "rate", type: "number", min: 0.1, max: 10000, step: "any", value: 20, required: true }),
      ),
      h(
        "label",
        { class: "field" },
        "At most",
        h("input", { name: "limit", type: "number", min: 1, placeholder: "no limit" }),
      ),
    ),
    h(
      "div",
      { class: "actions start" },
      mayOperate()
        ? h("button", { type: "submit", class: "button primary" }, "Count them first (dry run)")
        : operateButton("Count them first (dry run)", null, { kind: "primary" }),
      h("span", { class: "faint" }, "Nothing runs before you have seen the count and confirmed."),
    ),
  );
  const adapt = () => {
    warning.hidden = status.value === "dead";
    force.required = status.value !== "dead";
  };
  status.addEventListener("change", adapt);
  adapt();
  show(
    root,
    h(
      "nav",
      { class: "crumbs", "aria-label": "Where this is" },
      h("a", { href: href(["operations"]) }, "Operations"),
      icon("next", 12),
      h("span", {}, "Replay"),
    ),
    heading("Replay events"),
    h("p", { class: "lead" }, "For a single event, use the Retry button on its page. For many events, choose them here."),
    lookOnlyNote(),
    form,
  );
}

async function submit(event, { form, force, context }) {
  event.preventDefault();
  if (!mayOperate()) return;
  const { reason, rate, limit, status, event_type: types, ...rest } = readForm(form);
  const filter = { ...rest, status: status === "both" ? ["dead", "processed"] : [status] };
  if (types) filter.event_type = types;
  if (Object.keys(filter).length === 1) {
    toast("Choose events by a type, a time or an invoice. An early time in “Received from” chooses all events.", "warn");
    return;
  }
  const again = status !== "dead";
  const send = (values) =>
    post(
      "/webhooks/events/replay",
      {
        filter,
        reason: values.reason || reason,
        dry_run: values.dryRun,
        force: again && force.checked,
        rate: values.rate ?? Number(rate),
        limit: limit ? Number(limit) : null,
      },
      context.signal,
    );
  const started = await bulkDialog({
    title: "Replay events",
    verb: "Replay",
    withRate: true,
    reason,
    rate: Number(rate),
    danger: again,
    submit: send,
    warning: again && "The effects of the processed events among these happen a second time.",
    signal: context.signal,
  });
  if (started) go(["operations", started.id]);
}
