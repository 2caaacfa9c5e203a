// The choice of rows by checkbox: one row, all shown rows, or a range with Shift.

import { h } from "./dom.js";

export function createSelection() {
  const chosen = new Set();
  const listeners = [];
  let table = null;
  let last = null;

  const all = h("input", { type: "checkbox", "aria-label": "Choose all that are shown", onchange: chooseAll });
  const boxes = () => [...(table?.querySelectorAll("tbody input[type=checkbox]") ?? [])];

  function set(box, on) {
    box.checked = on;
    box.closest("tr").classList.toggle("chosen", on);
    if (on) chosen.add(box.value);
    else chosen.delete(box.value);
  }

  function tell() {
    const shown = boxes();
    all.checked = shown.length > 0 && chosen.size >= shown.length;
    all.indeterminate = chosen.size > 0 && !all.checked;
    for (const listener of listeners) listener(chosen.size);
  }

  function chooseAll() {
    for (const box of boxes()) set(box, all.checked);
    tell();
  }

  /** Chooses rows at a click. The browser toggles the clicked box; Shift gives its new state to the rows between. */
  function clicked(event) {
    const box = event.target;
    const shown = boxes();
    const [from, to] = [shown.indexOf(last), shown.indexOf(box)];
    const range = event.shiftKey && from >= 0 ? shown.slice(Math.min(from, to), Math.max(from, to) + 1) : [box];
    for (const each of range) set(each, box.checked);
    last = box;
    tell();
  }

  return {
    all,
    box: (row) =>
      h("input", {
        type: "checkbox",
        value: row.id,
        "aria-label": `Choose event ${row.entity_id ?? row.id}`,
        onclick: clicked,
      }),
    attach: (node) => {
      table = node;
    },
    refresh: tell,
    ids: () => [...chosen],
    clear: () => {
      for (const box of boxes()) set(box, false);
      tell();
    },
    onChange: (listener) => listeners.push(listener),
  };
}
