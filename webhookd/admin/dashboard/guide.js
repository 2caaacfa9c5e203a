// The search of the guide. The daemon sends the index of all sections once; the browser searches it as the person types.

import { h, setText, show } from "./dom.js";
import { excerpt, find, pieces, wordsOf } from "./guide-search.js";

const MOST = 20; // sections that are shown
const box = document.querySelector(".search");
const input = box.querySelector("input");
const count = box.querySelector("[role=status]");
const hits = box.querySelector(".hits");
let sections = null; // the promise of the index

function index() {
  sections ??= fetch("/guide/search.json").then((answer) => {
    if (!answer.ok) throw new Error(`The daemon answered with status ${answer.status}.`);
    return answer.json();
  });
  return sections;
}

/** Forgets an index that could not be loaded, so that the next key tries again. */
function forget() {
  sections = null;
}

async function search() {
  let all;
  try {
    all = await index();
  } catch {
    forget();
    return tell("The search could not be loaded: the daemon does not answer.", []);
  }
  const words = wordsOf(input.value); // the person may have typed while the index was loading
  if (words.length === 0) return close();
  const found = find(all, words);
  const total = `${found.length} ${found.length === 1 ? "section" : "sections"}`;
  tell(
    found.length === 0
      ? "No section has all these words."
      : found.length > MOST
        ? `The first ${MOST} of ${total}. More words narrow the search.`
        : total,
    found.slice(0, MOST).map((section) => hit(section, words)),
  );
}

function hit(section, words) {
  return h(
    "li",
    {},
    h(
      "a",
      { href: section.address, onclick: close },
      h("strong", {}, marked(section.heading, words)),
      section.page !== section.heading && h("span", { class: "faint" }, section.page),
      h("span", { class: "hit-text" }, marked(excerpt(section.text, words), words)),
    ),
  );
}

function marked(text, words) {
  return pieces(text, words).map((piece, i) => (i % 2 === 1 ? h("mark", {}, piece) : piece));
}

function tell(text, items) {
  setText(count, text);
  show(hits, h("p", { class: "faint", "aria-hidden": "true" }, text), h("ol", {}, items));
  hits.hidden = false;
}

function close() {
  hits.hidden = true;
  setText(count, "");
}

/** Moves the focus up or down, from the field through the found sections. */
function move(step) {
  const stops = [input, ...hits.querySelectorAll("a")];
  const at = stops.indexOf(document.activeElement) + step;
  stops[Math.min(stops.length - 1, Math.max(0, at))].focus();
}

input.addEventListener("input", search);
input.addEventListener("click", search);
input.addEventListener("focus", () => index().catch(forget)); // loads the index before the first key
box.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (hits.hidden) {
    if (event.key !== "ArrowDown") return;
    search();
  } else if (event.key === "ArrowDown") move(1);
  else if (event.key === "ArrowUp") move(-1);
  else if (event.key === "Enter" && event.target === input) hits.querySelector("a")?.click();
  else if (event.key === "Escape") {
    input.focus();
    close();
  } else return;
  event.preventDefault();
});
// A press must not take the focus from the field: the list would close before the click.
hits.addEventListener("mousedown", (event) => event.preventDefault());
box.addEventListener("focusout", (event) => {
  if (!box.contains(event.relatedTarget)) close();
});
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  input.focus();
  input.select();
});
/** A box that scrolls sideways takes the focus, so that the arrow keys scroll it. The width of the window decides. */
const reach = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const node of document.querySelectorAll(".prose pre, .prose .table")) reach.observe(node);
box.hidden = false; // without JavaScript, there is no search
