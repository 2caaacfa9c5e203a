// The frame around every view: navigation, search, the signed-in person, and whether the daemon answers.

import { session } from "./api.js";
import { every, h, setText, show } from "./dom.js";
import { clock, count, roughly } from "./format.js";
import { icon } from "./icons.js";
import { showKeys } from "./keyboard.js";
import { go, here, href } from "./navigation.js";
import { refreshTimes } from "./parts.js";
import { onPulse, pulse } from "./pulse.js";

const PLACES = [
  ["", "Overview", "overview"],
  ["events", "Events", "events"],
  ["dead-letters", "Dead letters", "dead"],
  ["quarantine", "Quarantine", "quarantine"],
  ["refused", "Refused", "refused"],
  ["destinations", "Destinations", "destinations"],
  ["provider", "Provider", "provider"],
  ["operations", "Operations", "operations"],
];
const SECTIONS = {
  transactions: "events",
  subscriptions: "events",
  customers: "events",
  "payment-profiles": "events",
  replay: "operations",
};

/** Builds the frame. Returns its node, the main element, and a function that marks the present place. */
export function buildShell({ onSignOut, signal }) {
  const main = h("main", { id: "main", tabindex: "-1" });
  const links = new Map(PLACES.map(([path, label, sign]) => [path, navLink(path, label, sign)]));
  const search = searchForm();
  const live = h("span", { class: "live" });
  const away = h("div", { class: "away", role: "alert", hidden: true });
  const node = h(
    "div",
    { class: "shell" },
    h("button", { type: "button", class: "skip", onclick: () => main.focus() }, "Skip to the content"),
    h(
      "header",
      { class: "top" },
      h(
        "a",
        { class: "brand", href: "#/" },
        // A narrow screen shows the picture alone, so the picture has the link's name.
        h("img", { src: "/assets/icon.svg", alt: "webhookd", width: 24, height: 24 }),
        h("span", { "aria-hidden": "true" }, "webhookd"),
      ),
      search.form,
      live,
      whoMenu(onSignOut),
    ),
    h(
      "nav",
      { class: "side", "aria-label": "Views" },
      [...links.values()],
      h("a", { class: "side-help", href: "/guide" }, icon("guide"), h("span", {}, "Guide")),
      h(
        "button",
        { type: "button", class: "side-help", onclick: showKeys },
        icon("keys"),
        h("span", {}, "Shortcuts"),
        h("kbd", {}, "?"),
      ),
    ),
    h("div", { class: "content" }, away, main),
  );
  const tell = () => tellState({ live, away, main, links });
  onPulse(tell, signal);
  every(1, tell, signal);
  every(5, refreshTimes, signal);
  return { node, main, mark: () => mark(links, search.input) };
}

function navLink(path, label, sign) {
  return h(
    "a",
    { href: href(path ? [path] : []) },
    icon(sign),
    h("span", { class: "nav-label" }, label),
    h("span", { class: "badge", hidden: true }),
  );
}

function searchForm() {
  const input = h("input", {
    id: "search",
    type: "search",
    autocomplete: "off",
    spellcheck: "false",
    enterkeyhint: "search",
    placeholder: "Transaction id, invoice number, event id …",
    "aria-label":
      "Find events by transaction id, " +
      "invoice number, subscription id, merchant reference, notification id or event id",
  });
  const submit = (event) => {
    event.preventDefault();
    if (input.value.trim()) go(["events"], { q: input.value.trim() });
  };
  return {
    input,
    form: h(
      "form",
      { class: "search", role: "search", onsubmit: submit },
      icon("search"),
      input,
      h("kbd", { title: "Press / to search" }, "/"),
    ),
  };
}

function whoMenu(onSignOut) {
  const role = session.role === "operate" ? "may operate" : "may only look";
  const menu = h(
    "details",
    { class: "who" },
    h(
      "summary",
      { "aria-label": `Signed in as ${session.name}, ${role}. Menu` },
      icon("person"),
      h("span", { class: "who-name" }, session.name),
      " ",
      h("span", { class: "who-role" }, role),
    ),
    h(
      "div",
      { class: "who-menu" },
      h("p", {}, h("strong", {}, session.name), h("br"), `Your token ${role}.`),
      h("label", { class: "field" }, "Theme", themeSelect()),
      h("a", { href: "/guide", class: "menu-item" }, icon("guide"), "Guide"),
      h("a", { href: "/docs", class: "menu-item" }, icon("link"), "API reference"),
      session.name !== "anonymous" &&
        h("button", { type: "button", class: "menu-item", onclick: onSignOut }, icon("back"), "Sign out"),
    ),
  );
  document.addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.firstElementChild.focus();
  });
  return menu;
}

function themeSelect() {
  const now = document.documentElement.dataset.theme ?? "";
  const choices = [
    ["", "As the system"],
    ["light", "Light"],
    ["dark", "Dark"],
  ];
  return h(
    "select",
    { onchange: (event) => setTheme(event.target.value) },
    choices.map(([value, label]) => h("option", { value, selected: value === now }, label)),
  );
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  try {
    localStorage.setItem("webhookd-theme", theme);
  } catch {
    // Without storage, the choice holds for this visit only.
  }
}

function mark(links, input) {
  const { parts, query } = here();
  const place = SECTIONS[parts[0]] ?? parts[0] ?? "";
  for (const [path, link] of links) {
    if (path === place) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "nearest" }); // a narrow screen scrolls the links sideways
    } else link.removeAttribute("aria-current");
  }
  if (parts[0] === "events" && document.activeElement !== input) input.value = query.get("q") ?? "";
}

function tellState({ live, away, main, links }) {
  const now = pulse.stats?.now;
  if (now) {
    badge(links.get("dead-letters"), now.statuses.dead, now.capped_at, "bad");
    badge(links.get("quarantine"), now.quarantine, now.capped_at, "warn");
    const dead = now.destinations.reduce((sum, row) => sum + row.dead, 0);
    badge(links.get("destinations"), dead, now.capped_at, "bad");
    badge(links.get("provider"), daysNotWhole(), now.capped_at, "warn");
  }
  const age = pulse.at ? (Date.now() - pulse.at) / 1000 : null;
  const broken = pulse.away || Boolean(pulse.problem);
  live.className = `live ${broken ? "bad" : "good"}`;
  live.hidden = age === null && !broken;
  if (live.childElementCount === 0) show(live, h("i", {}), h("span", {}));
  setText(live.lastChild, broken ? (pulse.away ? "No answer" : "Stale") : `Live, ${roughly(age ?? 0)} ago`);
  main.classList.toggle("stale", pulse.away);
  away.hidden = !pulse.away;
  if (!pulse.away) return;
  if (away.childElementCount === 0) show(away, icon("warn"), h("span", {}));
  // The text has no age, so that a screen reader reads the alert once, and not each second.
  setText(
    away.lastChild,
    "The daemon has stopped answering. " +
      (pulse.at ? `This page shows the state of ${clock(pulse.at)}. ` : "") +
      "Trying again every few seconds.",
  );
}

function daysNotWhole() {
  return pulse.accounts.reduce((sum, row) => sum + (row.held ? row.days_not_whole : 0), 0);
}

function badge(link, value, cap, tone) {
  const node = link.querySelector(".badge");
  node.hidden = !value;
  node.className = `badge ${tone}`;
  setText(node, value > 999 ? `${Math.floor(value / 1000)}k${value >= cap ? "+" : ""}` : count(value));
}
