// Line icons on a 16 × 16 grid.

import { svg } from "./dom.js";

const PATHS = {
  overview: "M2.5 9.5l3-3.5 2.5 2.5 5-5.5M2.5 13.5h11",
  events: "M2.5 4h11M2.5 8h11M2.5 12h7",
  dead: "M5.5 2.5h5l3 3v5l-3 3h-5l-3-3v-5zM6 6l4 4M10 6l-4 4",
  quarantine: "M8 1.8l5.2 2v4c0 3.2-2.2 5.4-5.2 6.4-3-1-5.2-3.2-5.2-6.4v-4zM8 5.5v3M8 10.8v.1",
  refused: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM3.8 3.8l8.4 8.4",
  operations: "M13.5 8a5.5 5.5 0 1 1-1.7-4M13.5 2v3h-3",
  destinations: "M2 8h7M6 4.5L9.5 8 6 11.5M11.5 3h2.5v10h-2.5",
  search: "M7 12a5 5 0 1 0 0-10 5 5 0 0 0 0 10zM10.7 10.7L14 14",
  check: "M3 8.5l3.3 3.3L13 4.8",
  cross: "M4 4l8 8M12 4l-8 8",
  clock: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM8 4.8V8l2.2 1.5",
  retry: "M3 8a5 5 0 1 0 1.6-3.7M3 2.5v2.8h2.8",
  inbox: "M2.5 9.5l2-6h7l2 6v3.5h-11zM2.5 9.5h3l1 1.5h3l1-1.5h3",
  queue: "M2.5 5.5h11M2.5 10.5h11M5 3.5v4M9 8.5v4",
  warn: "M8 2.2L14.3 13.3H1.7zM8 6.5v3M8 11.4v.1",
  info: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM8 7.3v3.5M8 5.1v.1",
  question: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM6.2 6.3a1.8 1.8 0 1 1 2.6 1.6c-.6.3-.8.6-.8 1.2M8 11.3v.1",
  provider: "M2.5 13.5V6.2L8 2.5l5.5 3.7v7.3M5.5 13.5v-4h5v4",
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  link: "M6.5 3.5h-3v9h9v-3M9 2.5h4.5V7M13.5 2.5L7.5 8.5",
  back: "M9.5 3.5L5 8l4.5 4.5",
  next: "M6.5 3.5L11 8l-4.5 4.5",
  theme: "M13 9.8A5.5 5.5 0 0 1 6.2 3 5.5 5.5 0 1 0 13 9.8z",
  person: "M8 8a2.6 2.6 0 1 0 0-5.2A2.6 2.6 0 0 0 8 8zM3 13.5c.6-2.3 2.6-3.5 5-3.5s4.4 1.2 5 3.5",
  keys: "M1.8 4.5h12.4v7.5H1.8zM4 7h.1M6.7 7h.1M9.3 7h.1M12 7h.1M5 9.7h6",
  guide: "M8 4.2C6.5 3 4.5 2.7 2 2.8v9.6c2.5-.1 4.5.2 6 1.4 1.5-1.2 3.5-1.5 6-1.4V2.8c-2.5-.1-4.5.2-6 1.4zM8 4.2v9.6",
  discard: "M3 4.5h10M6.5 4.5v-2h3v2M4.5 4.5l.6 9h5.8l.6-9",
  timeline:
    "M1.5 8h2.5M7 8h2M12 8h2.5M5.5 9.5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3z" +
    "M10.5 9.5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3z",
};

/** Returns a decoration beside a text; screen readers ignore it. */
export function icon(name, size = 16) {
  return svg(
    "svg",
    { class: "icon", viewBox: "0 0 16 16", width: size, height: size, "aria-hidden": "true" },
    svg("path", { d: PATHS[name] ?? PATHS.info }),
  );
}

export function iconPath(name) {
  return PATHS[name];
}
