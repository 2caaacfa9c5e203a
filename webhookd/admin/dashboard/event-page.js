// One event: its history, its errors, and the way to try it again.

import { get, isLeft, mayOperate, post } from "./api.js";
import { bodyView } from "./body-view.js";
import { confirmWithNote } from "./dialogs.js";
import { every, h, pause, setText, show } from "./dom.js";
import { eventTable, typeText } from "./event-table.js";
import { entityWords, isEnded, story, typeWords } from "./event-words.js";
import { sentence } from "./format.js";
import { icon } from "./icons.js";
import { href, timelineLink } from "./navigation.js";
import { attempts, trail } from "./event-history.js";
import { consumers } from "./event-consumers.js";
import {
  busy,
  chip,
  copyButton,
  errorState,
  facts,
  lookOnlyNote,
  operateButton,
  section,
  skeleton,
  statusTone,
  when,
} from "./parts.js";
import { toast } from "./toasts.js";

export async function eventPage(context) {
  const {
    root,
    args: [id],
    signal,
  } = context;
  const page = { id, context, event: null, shown: "", follow: false };
  context.title("Event");
  show(root, skeleton(10));
  try {
    await refresh(page);
  } catch (error) {
    if (!isLeft(error)) show(root, errorState(error, context.reload, "h1"));
    return;
  }
  every(1, () => tick(page), signal);
  watch(page);
}

async function refresh(page) {
  const { context, id } = page;
  const event = await get(`/webhooks/events/${encodeURIComponent(id)}`, {}, context.signal);
  const text = JSON.stringify(event);
  page.event = event;
  // Do not build an unchanged page again: a selection or the focus in the page would be lost.
  if (text === page.shown) return;
  page.shown = text;
  context.title(`${story(event).title} – ${typeWords(event.event_type)}`);
  const focus = document.activeElement?.dataset?.key;
  show(context.root, build(page));
  if (focus) context.root.querySelector(`[data-key="${focus}"]`)?.focus();
}

/** Follows an event until it has ended: each second at first, later every five seconds. */
async function watch(page) {
  for (let round = 0; ; round += 1) {
    if (isEnded(page.event) && !page.follow) return;
    await pause(round < 40 ? 1 : 5, page.context.signal);
    if (document.hidden) continue;
    try {
      await refresh(page);
    } catch (error) {
      if (isLeft(error)) return;
      // The shell shows that the daemon is away; the page continues to follow the event.
    }
    if (page.follow && isEnded(page.event)) {
      page.follow = false;
      const { status } = page.event;
      if (status === "processed") toast("The event is processed.", "good");
      else toast("The event failed again. The reason is at the top.", "bad");
    }
  }
}

function tick({ event, context }) {
  const title = context.root.querySelector(".story h1");
  if (event && title && !isEnded(event)) setText(title, story(event).title);
}

function build(page) {
  const { event } = page;
  const timeline = timelineLink(event);
  return [
    h(
      "nav",
      { class: "crumbs", "aria-label": "Where this is" },
      h("a", { href: href(["events"]) }, "Events"),
      icon("next", 12),
      h("span", {}, typeWords(event.event_type)),
    ),
    storyPanel(page),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        { class: "main-column" },
        event.consumers.length > 1 && section("Consumers", consumers(event.consumers)),
        event.failed_attempts.length > 0 && section("Failed attempts", attempts(event.failed_attempts)),
        section("Body", bodyView(event.body)),
        event.related.length > 0 && related(event, timeline),
      ),
      h("div", { class: "side-column" }, section("Details", details(event)), section("History", trail(event))),
    ),
  ];
}

function storyPanel(page) {
  const { event } = page;
  const { title, text, quote } = story(event);
  const timeline = timelineLink(event);
  return h(
    "section",
    { class: `story ${statusTone(event.status)}`, "aria-live": "polite" },
    h(
      "div",
      { class: "story-head" },
      chip(event.status),
      event.discarded_at && chip("discarded"),
      page.follow && h("span", { class: "following" }, h("span", { class: "spinner" }), "Following this event"),
    ),
    h("h1", { tabindex: "-1" }, title),
    h("p", { class: quote ? "reason" : "lead" }, text),
    h(
      "p",
      { class: "subject" },
      h("strong", {}, typeWords(event.event_type)),
      event.entity_id && [" · ", entityWords(event), " ", event.entity_id],
      event.invoice_number && [" · invoice ", event.invoice_number],
      " · received ",
      when(event.received_at),
    ),
    h(
      "div",
      { class: "actions start" },
      retryButton(page),
      event.status === "dead" &&
        !event.discarded_at &&
        operateButton("Discard", () => askDiscard(page), { sign: "discard" }),
      timeline &&
        h("a", { class: "button", href: timeline }, icon("timeline"), `Timeline of the ${entityWords(event).toLowerCase()}`),
    ),
    mayOperate() ? retryNote(event) : lookOnlyNote(),
  );
}

function retryButton(page) {
  const { event } = page;
  const label = event.retry.needs_force ? "Run again" : event.status === "retrying" ? "Retry now" : "Retry";
  const possible = event.retry.allowed || event.retry.needs_force;
  const node = operateButton(label, () => askRetry(page, node), {
    sign: "retry",
    kind: event.retry.needs_force || !possible ? "" : "primary",
    refused: possible ? null : sentence(event.retry.reason),
  });
  node.dataset.key = "r";
  return node;
}

function retryNote(event) {
  return event.retry.reason && h("p", { class: "note plain-note" }, sentence(event.retry.reason));
}

async function askRetry(page, node) {
  const { event, context } = page;
  const force = event.retry.needs_force;
  const answer = await confirmWithNote({
    title: force ? "Run this processed event again?" : "Retry this event?",
    text: force ? null : sentence(event.retry.reason),
    warning:
      force &&
      "This event is already processed. Its handlers run again, and their effects happen again: a booking " +
        "is made twice, a message is sent twice, unless the handlers prevent it.",
    action: force ? "Run it again" : "Retry",
    kind: force ? "danger" : "primary",
    signal: context.signal,
  });
  if (!answer) return;
  await busy(node, async () => {
    const path = `/webhooks/events/${encodeURIComponent(event.id)}/retry`;
    await post(
      force ? `${path}?force=true` : path,
      answer.note ? { reason: answer.note } : undefined,
      context.signal,
    );
    const idle = isEnded(page.event) && !page.follow;
    page.follow = true;
    page.shown = "";
    toast("Retry ordered. This page follows the event until it ends.", "good");
    await refresh(page);
    if (idle) watch(page);
  });
}

async function askDiscard(page) {
  const { event, context } = page;
  const answer = await confirmWithNote({
    title: "Discard this dead event?",
    action: "Discard",
    kind: "danger",
    signal: context.signal,
    text:
      "The event leaves the list of dead letters and the dead-letter queue. The event and its history stay, and " +
      "the search still finds it.",
  });
  if (!answer) return;
  const operation = await post(
    "/webhooks/dead-letters/discard",
    { ids: [event.id], reason: answer.note, dry_run: false },
    context.signal,
  );
  toast("Discarding the event.", "good", { href: href(["operations", operation.id]), label: "See the operation" });
  for (let round = 0; round < 10 && !page.event.discarded_at; round += 1) {
    await pause(1, context.signal);
    await refresh(page);
  }
}

const ORIGINS = {
  webhook: "webhook, verified by a Signature Key",
  history: "Authorize.Net's history: no webhook had brought it",
  synthetic: "webhookd, which found it out: no webhook reports it",
  import: "import without a signature",
};

function details(event) {
  return facts(
    [
      ["Type", h("code", { class: "type" }, typeText(event.event_type))],
      [entityWords(event), event.entity_id],
      ["Invoice", event.invoice_number],
      ["Merchant reference", event.merchant_reference],
      ["Account", event.account],
      ["Origin", ORIGINS[event.origin]],
      ["Attempts", String(event.attempts)],
      ["Happened", event.event_date && when(event.event_date)],
      ["Received", when(event.received_at)],
      ["Next attempt", event.retry_at && when(event.retry_at)],
      ["Ended", event.finished_at && when(event.finished_at)],
      ["Redriven", event.redriven_at && when(event.redriven_at)],
      ["Discarded", event.discarded_at && when(event.discarded_at)],
      ["Sent to the queue", sent(event)],
      ["Dead-letter copy", event.dead_letter_copy],
      ["Event id", [h("code", {}, event.id), copyButton(event.id)]],
      ["Notification id", h("code", {}, event.notification_id)],
      [
        "Duplicates",
        event.aliases.length > 0 &&
          event.aliases.map((alias) =>
            h("div", {}, h("code", {}, alias.notification_id), " through another webhook, ", when(alias.received_at)),
          ),
      ],
    ].map(([name, value]) => [name, value === false ? null : value]),
  );
}

/** Returns how often the event was sent, null if it is processed. An attempt may precede the record of the first send. */
function sent({ sends, attempts: tried }) {
  if (sends === null) return null;
  if (sends > 1) return `${sends} times`;
  return sends === 1 ? "once" : tried > 0 ? "not needed" : "not yet";
}

function related(event, timeline) {
  const table = eventTable({ caption: "Related events", brief: true });
  table.add(event.related);
  return section(
    `Other events of this ${entityWords(event).toLowerCase()}`,
    h("div", { class: "list" }, table.node),
    timeline && h("p", { class: "section-foot" }, h("a", { href: timeline }, "See them on a timeline")),
  );
}
