// One destination: its state, its deliveries with their errors, and the buttons to test, pause, redrive and drop.

import { get, isLeft, post } from "./api.js";
import { CAP, latencyWords } from "./destinations.js";
import { confirmWithNote } from "./dialogs.js";
import { every, h, show } from "./dom.js";
import { count, duration, plural, rate, sentence, shortType } from "./format.js";
import { icon } from "./icons.js";
import { eventLink, href } from "./navigation.js";
import {
  busy,
  chip,
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

const REFRESH = 5;
const HEADS = ["Status", "Event", "Attempts", "Due or died", "Last error"];

export async function destinationPage(context) {
  const {
    root,
    args: [name],
    signal,
  } = context;
  context.title(name);
  show(root, skeleton(8));
  const page = { name, context, shown: "", tested: null, open: new Set() };
  try {
    await refresh(page);
  } catch (error) {
    if (!isLeft(error)) show(root, errorState(error, context.reload, "h1"));
    return;
  }
  // The shell shows that the daemon is away. What the page shows stays.
  every(REFRESH, () => refresh(page).catch(() => {}), signal);
}

/** Builds the page anew if something has changed. `force`: also while a button is busy, as the button's own work does. */
async function refresh(page, force = false) {
  const { context, name } = page;
  const found = await get(path(name), {}, context.signal);
  const text = JSON.stringify([found, page.tested]);
  // Do not build an unchanged page again: a selection or the focus in the page would be lost. A busy button stays, too.
  if (text === page.shown || (!force && context.root.querySelector("[aria-busy=true]"))) return;
  page.shown = text;
  const focus = document.activeElement?.dataset?.key;
  show(context.root, build(found, page));
  if (focus) context.root.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus();
}

function path(name, action) {
  return `/webhooks/destinations/${encodeURIComponent(name)}${action ? `/${action}` : ""}`;
}

function build(found, page) {
  return [
    h(
      "nav",
      { class: "crumbs", "aria-label": "Where this is" },
      h("a", { href: href(["destinations"]), "data-key": "up" }, "Destinations"),
      icon("next", 12),
      h("span", {}, found.name),
    ),
    storyPanel(found, page),
    h(
      "div",
      { class: "columns" },
      h("div", { class: "main-column" }, section("Deliveries that have not ended", deliveries(found.deliveries, page))),
      h(
        "div",
        { class: "side-column" },
        section("Left to deliver", leftOver(found)),
        section("In the last hour", lastHour(found.last_hour)),
        found.settings && section("Settings", settings(found.settings)),
      ),
    ),
  ];
}

function storyPanel(found, page) {
  const { state, opened_at: openedAt, probe_at: probeAt, failures } = found;
  return h(
    "section",
    { class: `story ${statusTone(state)}` },
    h("div", { class: "story-head" }, chip(state)),
    h("h1", { tabindex: "-1" }, found.name),
    found.place && h("p", { class: "subject" }, h("code", {}, found.place)),
    found.paused_at &&
      h(
        "p",
        { class: "lead" },
        "Paused ",
        when(found.paused_at),
        ` by ${found.paused_by}. No replica sends, and no attempt is counted.`,
      ),
    openedAt &&
      h(
        "p",
        { class: "lead" },
        `The circuit is open after ${plural(failures, "failure")}, since `,
        when(openedAt),
        ". Only probes are sent, and what waits spends no attempts. The next probe may begin ",
        when(probeAt),
        ".",
      ),
    state === "removed" &&
      h(
        "p",
        { class: "lead" },
        "The settings of this process do not name it. Its deliveries stay until it comes back, or you drop them.",
      ),
    h("div", { class: "actions start" }, buttons(found, page)),
    page.tested && testResult(page.tested),
    lookOnlyNote(),
  );
}

function buttons(found, page) {
  const removed = found.state === "removed";
  const others = found.waiting + found.retrying;
  return [
    !removed && act(page, "test", "Send a test event", { sign: "operations" }, (node) => test(page, node)),
    (found.paused_at || (!removed && (found.opened_at || found.retrying > 0))) &&
      act(page, "resume", resumeLabel(found), { sign: "retry", kind: "primary" }, () => resume(page)),
    !found.paused_at && !removed && act(page, "pause", "Pause", { sign: "clock" }, () => pause(page)),
    found.dead > 0 &&
      !removed &&
      act(page, "redrive", "Redrive dead …", { sign: "retry" }, () =>
        ask(page, "redrive", { all: true }, {
          title: `Redrive ${plural(found.dead, "dead delivery", "dead deliveries")}?`,
          text: "Each is tried again with all its attempts. Every request keeps its webhook-id.",
          action: "Redrive",
        }),
      ),
    found.dead > 0 &&
      act(page, "drop", "Drop dead …", { sign: "discard" }, () =>
        ask(page, "drop", { all: true }, {
          title: `Drop ${plural(found.dead, "dead delivery", "dead deliveries")}?`,
          text: "The destination never gets these events. Their history records this.",
          action: "Drop",
          kind: "danger",
        }),
      ),
    others > 0 &&
      (removed || found.paused_at) &&
      act(page, "drop-all", "Drop everything …", { sign: "discard" }, () =>
        ask(page, "drop", { all: true, unfinished: true }, {
          title: `Drop all ${plural(others + found.dead, "delivery", "deliveries")}?`,
          text: "Also those that wait or are tried again. The destination never gets these events. A replay to it ends, too.",
          action: "Drop all",
          kind: "danger",
        }),
      ),
  ];
}

function act(page, key, label, options, work) {
  const node = operateButton(label, () => busy(node, () => work(node)), options);
  node.dataset.key = key;
  return node;
}

async function test(page) {
  const { context, name } = page;
  page.tested = await post(path(name, "test"), {}, context.signal);
  await refresh(page, true);
}

function testResult({ accepted, status, error, seconds, answer }) {
  const words = error ?? `HTTP status ${status}`;
  return h(
    "div",
    { role: "status" },
    h(
      "p",
      { class: accepted ? "note" : "problem" },
      `Test event ${accepted ? "accepted" : "not accepted"}: ${words}, after ${duration(seconds)}.`,
    ),
    answer && h("pre", { class: "code wrap", tabindex: 0, "aria-label": "Answer to the test event" }, answer),
  );
}

function resumeLabel({ paused_at: pausedAt, opened_at: openedAt }) {
  if (pausedAt) return "Resume";
  return openedAt ? "Probe now" : "Retry now";
}

async function pause(page) {
  const row = await post(path(page.name, "pause"), {}, page.context.signal);
  toast(`${page.name} is ${row.state} now.`, "good");
  await refreshOrLeave(page);
}

async function resume(page) {
  const row = await post(path(page.name, "resume"), {}, page.context.signal);
  const later = row.more ? " More are due later: retry again when these are over." : "";
  toast(`${page.name} is ${row.state} now. Due now: ${plural(row.hastened, "retry", "retries")}.${later}`, "good");
  await refreshOrLeave(page);
}

/** Asks, and changes all deliveries that are chosen. One call changes some thousands at most. */
async function ask(page, action, chosen, texts) {
  const { context, name } = page;
  const answer = await confirmWithNote({ ...texts, signal: context.signal });
  if (!answer) return;
  let changed = 0;
  for (let more = true; more; ) {
    const body = answer.note ? { ...chosen, reason: answer.note } : chosen;
    const done = await post(path(name, action), body, context.signal);
    changed += done.count;
    more = done.more;
  }
  toast(`${action === "drop" ? "Dropped" : "Redriven"}: ${plural(changed, "delivery", "deliveries")}.`, "good");
  await refreshOrLeave(page);
}

/** A removed destination with nothing left is gone: then goes back to the list. */
async function refreshOrLeave(page) {
  try {
    await refresh(page, true);
  } catch (error) {
    if (error.status !== 404) throw error;
    location.hash = href(["destinations"]);
  }
}

function leftOver({ waiting, retrying, dead, oldest }) {
  const line = (number, words, at) => [count(number, CAP), at && [", ", words, " ", when(at)]];
  return facts([
    ["Waiting", line(waiting, "oldest", oldest.waiting)],
    ["Retrying", line(retrying, "oldest", oldest.retrying)],
    ["Dead", line(dead, "first", oldest.dead)],
  ]);
}

function lastHour({ delivered, failed, died, per_second: perSecond, latency, attempt }) {
  return facts([
    ["Delivered", `${count(delivered)}, ${rate(perSecond)} /s`],
    ["Failed attempts", count(failed)],
    ["Given up", count(died)],
    ["Until delivered", latencyWords(latency)],
    ["One request", latencyWords(attempt)],
  ]);
}

function settings(values) {
  return facts(
    Object.entries(values)
      .filter(([name]) => name !== "url")
      .map(([name, value]) => [sentence(name.replaceAll("_", " ")).slice(0, -1), words(value)]),
  );
}

function words(value) {
  if (value === null || value === "") return null;
  return Array.isArray(value) ? value.join(", ") : String(value);
}

function deliveries(rows, page) {
  if (rows.length === 0) return h("p", { class: "faint" }, "Nothing is left to deliver.");
  const body = h(
    "tbody",
    {},
    rows.map((row) => deliveryRow(row, page)),
  );
  return h(
    "div",
    { class: "list" },
    h(
      "table",
      { class: "rows" },
      h("caption", { class: "unseen" }, "Dead deliveries, the newest death first; then those that are tried next"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          HEADS.map((text) => h("th", { scope: "col", class: text === "Attempts" ? "figure" : null }, text)),
        ),
      ),
      body,
    ),
  );
}

function deliveryRow(row, page) {
  return h(
    "tr",
    {},
    h("td", { class: "cell-status" }, chip(row.status)),
    h(
      "td",
      { class: "cell-type" },
      h(
        "a",
        { class: "row-link", href: eventLink(row.event_id), "data-key": row.event_id },
        shortType(row.event_type) || row.event_id,
      ),
    ),
    h("td", { class: "figure", "data-label": "Attempts" }, row.attempts),
    h("td", { class: "cell-time", "data-label": row.status === "dead" ? "Died" : "Due" }, when(row.due)),
    h("td", { class: "cell-answer" }, row.last_error ?? "", row.last_answer && lastAnswer(row, page)),
  );
}

/** Returns the last answer, folded away. An answer that was opened stays open when the page is built anew. */
function lastAnswer({ event_id: id, event_type: type, last_answer: answer }, page) {
  return h(
    "details",
    {
      class: "more",
      open: page.open.has(id),
      ontoggle: ({ target }) => (target.open ? page.open.add(id) : page.open.delete(id)),
    },
    h("summary", { "data-key": `answer ${id}` }, "Last answer"),
    h("pre", { class: "code wrap", tabindex: 0, "aria-label": `Last answer to ${shortType(type) || id}` }, answer),
  );
}
