// The days of an account: a calendar of their completeness, and their counts.

import { h } from "./dom.js";
import { count, plural } from "./format.js";
import { icon } from "./icons.js";
import { href } from "./navigation.js";
import { chip, statusIcon, statusTone, statusWord, when } from "./parts.js";

export const SHOWN = 28; // days of the calendar
const LINES = 14; // days of the table
const DAY = 86_400_000; // milliseconds
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "long", timeZone: "UTC" });
const weekday = new Intl.DateTimeFormat("en-GB", { weekday: "short", timeZone: "UTC" });
const FIGURES = [
  ["listed", "Provider"],
  ["ours", "webhookd"],
  ["recovered", "Recovered"],
  ["missing", "Missing"],
  ["unreadable", "Unreadable"],
  ["unlisted", "Not listed"],
];

/** Returns "26 November: provider 4,812, webhookd 4,812, 3 recovered". */
export function dayWords({ day, completeness, listed, ours, recovered, missing, unreadable }) {
  const parts = [
    `provider ${count(listed)}`,
    `webhookd ${count(ours)}`,
    recovered > 0 && `${count(recovered)} recovered`,
    missing > 0 && `${count(missing)} missing`,
    unreadable > 0 && `${count(unreadable)} unreadable`,
    completeness === "not known" && "not known",
    completeness === "open" && "open",
  ];
  return `${dayName(day)}: ${parts.filter(Boolean).join(", ")}`;
}

export function dayName(day) {
  return date.format(new Date(`${day}T00:00:00Z`));
}

/** Returns the last days as a strip, today last. Each state has a sign and a word: the colour is never alone. */
export function calendar(days) {
  const known = new Map(days.map((row) => [row.day, row]));
  const today = Math.floor(Date.now() / DAY);
  const shown = Array.from({ length: SHOWN }, (_, i) => new Date((today - SHOWN + 1 + i) * DAY));
  return h(
    "ol",
    { class: "calendar" },
    shown.map((moment) => cell(moment, known.get(moment.toISOString().slice(0, 10)))),
  );
}

function cell(moment, row) {
  const state = row?.completeness ?? "not compared";
  const words = row ? `${dayWords(row)}. ${statusWord(state)}` : `${date.format(moment)}: not compared`;
  return h(
    "li",
    { class: `calendar-day ${statusTone(state)}`, title: words },
    h("span", { class: "calendar-weekday", "aria-hidden": "true" }, weekday.format(moment)),
    h("span", { class: "calendar-number", "aria-hidden": "true" }, moment.getUTCDate()),
    row ? icon(statusIcon(state), 14) : h("span", { class: "calendar-none", "aria-hidden": "true" }, "–"),
    h("span", { class: "unseen" }, words),
  );
}

/** Returns the signs of the calendar with their meaning, those that it shows. */
export function legend(days) {
  const states = [...new Set(days.map((row) => row.completeness))].sort();
  return h("p", { class: "calendar-legend" }, states.map((state) => [chip(state), " "]), "Days are days of UTC.");
}

/** Returns the counts of the newest days. `account`: for the links to recovered events. */
export function dayTable(days, account) {
  return h(
    "div",
    { class: "list" },
    h(
      "table",
      { class: "rows" },
      h("caption", { class: "unseen" }, "Days, the newest first"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "State"),
          h("th", { scope: "col" }, "Day"),
          FIGURES.map(([, label]) => h("th", { scope: "col", class: "figure" }, label)),
          h("th", { scope: "col" }, "Looked"),
        ),
      ),
      h(
        "tbody",
        {},
        days.slice(0, LINES).map((row) => dayRow(row, account)),
      ),
    ),
  );
}

function dayRow(row, account) {
  return h(
    "tr",
    {},
    h("td", { class: "cell-status" }, chip(row.completeness)),
    h("td", { class: "cell-type" }, dayName(row.day)),
    FIGURES.map(([name, label]) => figure(name, label, row, account)),
    h("td", { class: "cell-time", "data-label": "Looked" }, when(row.looked_at)),
  );
}

function figure(name, label, row, account) {
  const bad = row[name] > 0 && (name === "missing" || name === "unreadable");
  const text = count(row[name]);
  const link =
    name === "recovered" &&
    row.recovered > 0 &&
    h(
      "a",
      {
        href: recoveredLink(account, row.day),
        "data-key": row.day,
        "aria-label": `${plural(row.recovered, "recovered event")} since ${dayName(row.day)}`,
      },
      text,
    );
  return h("td", { class: `figure ${bad ? "bad" : ""}`, "data-label": label }, link || text);
}

/** Returns the link to the search of an account's recovered events, received since the beginning of a day. */
export function recoveredLink(account, day) {
  return href(["events"], { account, origin: "history", received_from: `${day}T00:00:00Z` });
}
