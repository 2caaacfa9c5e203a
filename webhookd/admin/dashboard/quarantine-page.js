// One body in quarantine: the reason, the bytes, and the buttons to release or discard the body.

import { get, post } from "./api.js";
import { bodyView } from "./body-view.js";
import { confirmWithNote } from "./dialogs.js";
import { h } from "./dom.js";
import { bytes, plural, sentence } from "./format.js";
import { icon } from "./icons.js";
import { eventLink, href } from "./navigation.js";
import { busy, chip, facts, load, lookOnlyNote, operateButton, section, statusTone, when } from "./parts.js";
import { reasonWords } from "./quarantine-words.js";
import { toast } from "./toasts.js";

export function quarantinePage(context) {
  const {
    root,
    args: [id],
    signal,
  } = context;
  context.title("Quarantine");
  return load(root, async () => {
    const item = await get(`/webhooks/quarantine/${encodeURIComponent(id)}`, {}, signal);
    context.title(reasonWords(item.reason));
    return build(item, context);
  });
}

function build(item, context) {
  return [
    h(
      "nav",
      { class: "crumbs", "aria-label": "Where this is" },
      h("a", { href: href(["quarantine"]) }, "Quarantine"),
      icon("next", 12),
      h("span", {}, reasonWords(item.reason)),
    ),
    storyPanel(item, context),
    h(
      "div",
      { class: "columns" },
      h("div", { class: "main-column" }, section("Body", bodyView(item.body))),
      h(
        "div",
        { class: "side-column" },
        section(
          "Details",
          facts([
            ["Account", item.account],
            ["Received", when(item.received_at)],
            ["Times received", String(item.times_received)],
            ["Size", bytes(item.size)],
            ["Id", h("code", {}, item.id)],
            ["Handled", item.handled_at && when(item.handled_at)],
            ["By", item.handled_by],
            ["Note", item.note],
          ]),
        ),
      ),
    ),
  ];
}

function storyPanel(item, context) {
  const waits = item.state === "waiting";
  const title = waits
    ? `${reasonWords(item.reason)}, so it waits here`
    : item.state === "released"
      ? "Released: it became an event"
      : "Discarded";
  return h(
    "section",
    { class: `story ${statusTone(item.state)}` },
    h("div", { class: "story-head" }, chip(item.state)),
    h("h1", { tabindex: "-1" }, title),
    h("p", { class: "reason" }, item.detail),
    h(
      "p",
      { class: "subject" },
      `Account ${item.account} · received ${plural(item.times_received, "time")}, first `,
      when(item.received_at),
    ),
    h(
      "div",
      { class: "actions start" },
      waits && releaseButton(item, context),
      waits && discardButton(item, context),
      item.event_id &&
        h("a", { class: "button primary", href: eventLink(item.event_id) }, icon("events"), "Open the event"),
    ),
    waits && (lookOnlyNote() ?? h("p", { class: "note plain-note" }, sentence(item.release.reason))),
  );
}

function releaseButton(item, context) {
  const node = operateButton(
    "Release",
    async () => {
      const answer = await confirmWithNote({
        title: "Release this body?",
        text: sentence(item.release.reason),
        action: "Release",
        signal: context.signal,
      });
      if (!answer) return;
      await busy(node, async () => {
        const result = await send(item, "release", answer.note);
        toast(
          result.outcome === "duplicate"
            ? "The event is already known, so nothing runs twice."
            : ["Released: it is an event now", ...result.mended].join("; ") + ".",
          "good",
          { href: eventLink(result.event_id), label: "Open the event" },
        );
        context.reload();
      });
    },
    {
      sign: "check",
      kind: item.release.allowed ? "primary" : "",
      refused: item.release.allowed ? null : sentence(item.release.reason),
    },
  );
  return node;
}

function discardButton(item, context) {
  const node = operateButton(
    "Discard",
    async () => {
      const answer = await confirmWithNote({
        title: "Discard this body?",
        action: "Discard",
        kind: "danger",
        signal: context.signal,
        text: "The body will not become an event, and Authorize.Net does not send it again.",
      });
      if (!answer) return;
      await busy(node, async () => {
        await send(item, "discard", answer.note);
        toast("Discarded.", "good");
        context.reload();
      });
    },
    { sign: "discard" },
  );
  return node;
}

function send(item, action, note) {
  return post(`/webhooks/quarantine/${encodeURIComponent(item.id)}/${action}`, note ? { reason: note } : undefined);
}
