// Keyboard shortcuts. They are off while the person types, and while a dialog is open.

import { openDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { go } from "./navigation.js";
import { button } from "./parts.js";

const PLACES = { o: "", e: "events", d: "dead-letters", q: "quarantine", f: "refused", t: "destinations", v: "provider", p: "operations" };
const HELP = [
  ["/", "Search for an event"],
  ["g o", "Overview"],
  ["g e", "Events"],
  ["g d", "Dead letters"],
  ["g q", "Quarantine"],
  ["g f", "Refused webhooks"],
  ["g t", "Destinations"],
  ["g v", "Provider"],
  ["g p", "Operations"],
  ["j  k", "Next and previous row"],
  ["Enter", "Open the row"],
  ["x", "Select the row (dead letters)"],
  ["r", "Retry the event that is open"],
  ["← →", "Move along a chart that has the focus"],
  ["?", "This list"],
];

let leader = 0;

export function listenToKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (document.querySelector("dialog[open]") || !document.querySelector(".shell")) return;
    if (act(event.key)) event.preventDefault();
  });
}

function typing(target) {
  return target.isContentEditable || (/^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) && target.type !== "checkbox");
}

function act(key) {
  if (leader && Date.now() - leader < 1500 && key in PLACES) {
    leader = 0;
    go(PLACES[key] ? [PLACES[key]] : []);
    return true;
  }
  leader = key === "g" ? Date.now() : 0;
  if (key === "/") return focusSearch();
  if (key === "?") return showKeys();
  if (key === "j" || key === "k") return moveRow(key === "j" ? 1 : -1);
  if (key === "x") return press("tr:focus-within input[type=checkbox]");
  if (key === "r") return press("[data-key=r]");
  return false;
}

function focusSearch() {
  const box = document.getElementById("search");
  box.focus();
  box.select();
  return true;
}

function press(selector) {
  const node = document.querySelector(selector);
  node?.click();
  return Boolean(node);
}

/** Moves the focus to the link of another row, so that Enter opens the row without more code. */
function moveRow(step) {
  const links = [...document.querySelectorAll("#main .row-link")];
  if (links.length === 0) return false;
  const row = document.activeElement?.closest("tr");
  const at = row ? links.findIndex((link) => row.contains(link)) : -1;
  const next = at < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + step));
  links[next].focus();
  links[next].closest("tr").scrollIntoView({ block: "nearest" });
  return true;
}

export function showKeys() {
  openDialog("Keyboard shortcuts", (close) => [
    h(
      "dl",
      { class: "keys" },
      HELP.map(([keys, text]) =>
        h(
          "div",
          {},
          h(
            "dt",
            {},
            keys.split(/\s+/).map((key) => h("kbd", {}, key)),
          ),
          h("dd", {}, text),
        ),
      ),
    ),
    h(
      "div",
      { class: "actions" },
      button("Close", () => close(), { kind: "primary" }),
    ),
  ]);
  return true;
}
