// One operation: its progress until it ends, its choice, its counts and its errors.

import { get, isLeft } from "./api.js";
import { h, show } from "./dom.js";
import { shortType } from "./format.js";
import { icon } from "./icons.js";
import { href } from "./navigation.js";
import { breakdown, cancelButton, follow, isOver, kindWords, progress } from "./operation-parts.js";
import { errorState, facts, section, skeleton, statusTone, when } from "./parts.js";

export async function operationPage(context) {
  const {
    root,
    args: [id],
    signal,
  } = context;
  context.title("Operation");
  show(root, skeleton(6));
  try {
    const operation = await get(`/webhooks/operations/${encodeURIComponent(id)}`, {}, signal);
    let shown = "";
    await follow(
      operation,
      (now) => {
        context.title(`${kindWords(now)}, ${now.state}`);
        if (JSON.stringify(now) !== shown) show(root, build(now));
        shown = JSON.stringify(now);
      },
      signal,
    );
  } catch (error) {
    if (!isLeft(error)) show(root, errorState(error, context.reload, "h1"));
  }
}

function build(operation) {
  const name = `${kindWords(operation)}${operation.dry_run ? ", dry run" : ""}`;
  return [
    h(
      "nav",
      { class: "crumbs", "aria-label": "Where this is" },
      h("a", { href: href(["operations"]) }, "Operations"),
      icon("next", 12),
      h("span", {}, name),
    ),
    h(
      "section",
      { class: `story ${statusTone(operation.state)}` },
      h("h1", { tabindex: "-1" }, name),
      operation.reason && h("p", { class: "lead" }, operation.reason),
      progress(operation),
      !isOver(operation) &&
        h(
          "div",
          { class: "actions start" },
          cancelButton(operation, () => {}),
        ),
    ),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        { class: "main-column" },
        section(
          "Chosen events",
          breakdown(operation),
          h("p", { class: "section-foot faint" }, operation.state === "counting" ? "Still counting." : ""),
        ),
      ),
      h(
        "div",
        { class: "side-column" },
        section(
          "Details",
          facts([
            ["By", operation.actor],
            ["Chosen", selection(operation)],
            ["Events per second", operation.kind === "discard" ? null : String(operation.rate)],
            ["At most", operation.limit && String(operation.limit)],
            ["Started", when(operation.created_at)],
            ["Last step", when(operation.updated_at)],
            ["Ended", operation.finished_at && when(operation.finished_at)],
            ["Id", h("code", {}, operation.id)],
          ]),
        ),
      ),
    ),
  ];
}

/** Returns the selection: in words if it is ids or everything, else the filter as it was given, with short types. */
function selection({ selection: given }) {
  if (given.ids) return `${given.ids.length} by hand`;
  const entries = Object.entries(given);
  if (entries.length === 0) return "all dead events";
  return entries.map(([name, value]) =>
    h(
      "div",
      {},
      `${name}: `,
      h(
        "code",
        {},
        [value]
          .flat()
          .map((item) => (typeof item === "string" ? shortType(item) : JSON.stringify(item)))
          .join(", "),
      ),
    ),
  );
}
