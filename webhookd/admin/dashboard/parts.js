// Small parts that every view uses: chips, times, buttons, and the states of loading, empty and failed.

import { ApiError, mayOperate } from "./api.js";
import { h, show } from "./dom.js";
import { bothZones, relative } from "./format.js";
import { icon } from "./icons.js";
import { toast } from "./toasts.js";

const STATUSES = {
  received: ["Received", "inbox", "info"],
  queued: ["Queued", "queue", "info"],
  retrying: ["Retrying", "retry", "warn"],
  processed: ["Processed", "check", "good"],
  dead: ["Dead", "dead", "bad"],
  waiting: ["Waiting", "clock", "warn"],
  released: ["Released", "check", "good"],
  discarded: ["Discarded", "discard", "plain"],
  counting: ["Counting", "clock", "info"],
  working: ["Working", "retry", "info"],
  done: ["Done", "check", "good"],
  cancelled: ["Cancelled", "cross", "plain"],
  failed: ["Failed", "warn", "bad"],
  delivered: ["Delivered", "check", "good"],
  dropped: ["Dropped", "discard", "plain"],
  unsent: ["Not sent", "info", "plain"],
  active: ["Active", "check", "good"],
  failing: ["Failing", "warn", "bad"],
  paused: ["Paused", "clock", "warn"],
  removed: ["Removed", "cross", "plain"],
  // The provider's side: webhooks, credentials and days.
  ok: ["Sends", "check", "good"],
  inactive: ["Inactive", "dead", "bad"],
  missing: ["Missing", "dead", "bad"],
  url: ["Another URL", "warn", "bad"],
  event_types: ["Event types lost", "warn", "bad"],
  doubled: ["Doubled", "warn", "warn"],
  unknown: ["Not known", "question", "plain"],
  good: ["Credentials accepted", "check", "good"],
  refused: ["Credentials refused", "refused", "bad"],
  whole: ["Whole", "check", "good"],
  open: ["Open", "clock", "info"],
  unreadable: ["Unreadable", "warn", "warn"],
  "not known": ["Not known", "question", "warn"],
  green: ["Green", "check", "good"],
  differences: ["Differences", "warn", "bad"],
};

/** Returns a status with its word and its icon: the colour is never alone. */
export function chip(status, label) {
  const [word, sign, tone] = STATUSES[status] ?? [status, "info", "plain"];
  return h("span", { class: `chip ${tone}` }, icon(sign, 13), label ?? word);
}

export function statusTone(status) {
  return (STATUSES[status] ?? [])[2] ?? "plain";
}

export function statusWord(status) {
  return (STATUSES[status] ?? [status])[0];
}

export function statusIcon(status) {
  return (STATUSES[status] ?? [])[1] ?? "info";
}

/** Returns a time whose age stays current; the tooltip has both zones. */
export function when(iso, empty = "–") {
  if (!iso) return h("span", { class: "faint" }, empty);
  return h("time", { datetime: iso, title: bothZones(iso), "data-relative": true }, relative(iso));
}

export function refreshTimes() {
  for (const node of document.querySelectorAll("time[data-relative]")) {
    const text = relative(node.dateTime);
    if (node.textContent !== text) node.textContent = text;
  }
}

export function button(label, onclick, { kind = "", sign, title, type = "button", id } = {}) {
  return h("button", { type, class: `button ${kind}`, onclick, title, id }, sign && icon(sign), label);
}

/** Returns a button that changes something. Without the right to operate, it is visible, says why, and does nothing. */
export function operateButton(label, onclick, options = {}) {
  const reason = mayOperate() ? options.refused : READ_ONLY;
  if (!reason) return button(label, onclick, options);
  const node = button(label, () => toast(reason, "warn"), { ...options, title: reason });
  node.setAttribute("aria-disabled", "true");
  return node;
}

export const READ_ONLY = "Your token may only look. To make changes, sign in with a token of WEBHOOKD_ADMIN_TOKENS.";

/** Returns the note below the buttons if the person may not press them. */
export function lookOnlyNote() {
  return mayOperate() ? null : h("p", { class: "note" }, icon("info"), READ_ONLY);
}

/** Disables a button while its work runs, and reports a failure in a toast. */
export async function busy(node, work) {
  if (node.getAttribute("aria-busy") === "true") return;
  node.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    if (error.name !== "AbortError") toast(error.message, "bad");
  } finally {
    node.removeAttribute("aria-busy");
  }
}

export function skeleton(lines = 8) {
  const widths = ["w60", "w90", "w75", "w45"];
  return h(
    "div",
    { class: "skeleton", role: "status", "aria-label": "Loading" },
    Array.from({ length: lines }, (_, i) => h("span", { class: widths[i % widths.length] })),
  );
}

export function emptyState(title, ...hints) {
  return h(
    "div",
    { class: "empty" },
    icon("inbox", 28),
    h("h2", {}, title),
    hints.map((hint) => h("p", {}, hint)),
  );
}

/** Returns the error, the parameters that were refused, and a way to try again. A page that shows nothing else needs "h1". */
export function errorState(error, retry, tag = "h2") {
  const known = error instanceof ApiError;
  const lines = known
    ? error.errors.map((item) => h("li", {}, h("code", {}, item.name ?? item.in), " ", item.message))
    : [];
  return h(
    "div",
    { class: "empty bad", role: "alert" },
    icon("warn", 28),
    h(tag, {}, error.status === 404 ? "Not found" : "This could not be loaded"),
    h("p", {}, known ? error.message : `Something unexpected happened in the dashboard: ${error.message}`),
    lines.length > 0 && h("ul", {}, lines),
    retry && error.status !== 404 && button("Try again", retry, { sign: "retry" }),
  );
}

/** Fills a node: first with a skeleton, then with the loader's node, or with the error and a way to try again. */
export async function load(node, loader, lines) {
  show(node, skeleton(lines));
  try {
    show(node, await loader());
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ApiError)) console.error(error);
    show(
      node,
      errorState(error, () => load(node, loader, lines), node.classList.contains("view") ? "h1" : "h2"),
    );
  }
}

export function heading(title, ...aside) {
  return h("div", { class: "heading" }, h("h1", { tabindex: "-1" }, title), h("div", { class: "aside" }, aside));
}

export function section(title, ...content) {
  return h("section", { class: "panel" }, h("h2", {}, title), content);
}

/** Returns a list of names and values, without the names that have no value. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h(
    "dl",
    { class: "facts" },
    shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

export function copyButton(text, label = "Copy") {
  const node = button(
    label,
    async () => {
      try {
        await navigator.clipboard.writeText(text);
        toast("Copied.", "good");
      } catch {
        toast("The browser did not allow copying. Select the text and copy it by hand.", "warn");
      }
    },
    { sign: "copy", kind: "small" },
  );
  return node;
}

/** Returns a table whose rows are lists of cells. A screen that is too narrow shows each row as a card, with the heads as labels. */
export function table(caption, heads, rows) {
  return h(
    "div",
    { class: "list" },
    h(
      "table",
      { class: "rows" },
      h("caption", { class: "unseen" }, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          heads.map((text) => h("th", { scope: "col" }, text)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((cells) =>
          h(
            "tr",
            {},
            cells.map((content, i) => h("td", { "data-label": heads[i], class: i === 0 ? "cell-status" : null }, content)),
          ),
        ),
      ),
    ),
  );
}
