// Short messages that come and go, read out by screen readers (the box is a live region).

import { h } from "./dom.js";
import { icon } from "./icons.js";

const SIGNS = { good: "check", bad: "warn", warn: "info" };
const SECONDS = { good: 5, warn: 8, bad: 12 };

export function toast(text, tone = "good", link) {
  const box = document.getElementById("toasts");
  const node = h(
    "div",
    { class: `toast ${tone}` },
    icon(SIGNS[tone]),
    h("span", {}, text),
    link && h("a", { href: link.href }, link.label),
    h(
      "button",
      { type: "button", class: "bare", "aria-label": "Dismiss", onclick: () => node.remove() },
      icon("cross", 14),
    ),
  );
  box.append(node);
  while (box.children.length > 4) box.firstElementChild.remove();
  setTimeout(() => node.remove(), SECONDS[tone] * 1000);
}
