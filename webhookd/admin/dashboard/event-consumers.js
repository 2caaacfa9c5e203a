// The consumers of an event: the handlers, and each destination that gets the event.

import { h } from "./dom.js";
import { plural } from "./format.js";
import { href } from "./navigation.js";
import { chip, when } from "./parts.js";

/** Returns a list of the consumers with the state of each, and a link to each destination. */
export function consumers(list) {
  return h("ul", { class: "consumers" }, list.map(consumer));
}

function consumer({ name, status, attempts, due, last_error: error, last_answer: answer }) {
  const destination = name !== "handlers";
  return h(
    "li",
    {},
    h(
      "div",
      { class: "attempt-head" },
      destination ? h("a", { href: href(["destinations", name]) }, name) : h("strong", {}, "Handlers"),
      chip(status),
      attempts > 0 && h("span", {}, plural(attempts, "attempt")),
      due && h("span", { class: "faint" }, Date.parse(due) > Date.now() ? ["next attempt ", when(due)] : "due now"),
    ),
    destination && error && h("p", { class: "reason" }, error),
    answer &&
      h(
        "details",
        { class: "more" },
        h("summary", {}, "Last answer"),
        h("pre", { class: "code wrap", tabindex: 0, "aria-label": `Last answer of ${name}` }, answer),
      ),
  );
}
