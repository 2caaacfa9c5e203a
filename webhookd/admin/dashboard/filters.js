// Filter forms: they read their values from the address, and write them to the address.

import { h } from "./dom.js";
import { fromInput, toInput } from "./format.js";
import { KNOWN_TYPES } from "./event-words.js";
import { go } from "./navigation.js";
import { icon } from "./icons.js";
import { button } from "./parts.js";

// The filters of events that are one text, for the list and the replay.
export const TEXTS = [
  ["account", "Account", "any"],
  ["entity_id", "Entity id"],
  ["invoice_number", "Invoice number"],
  ["merchant_reference", "Merchant reference"],
];

const ORIGINS = [
  ["", "anything"],
  ["webhook", "a webhook"],
  ["history", "a row of the provider's history"],
  ["synthetic", "webhookd's own finding"],
  ["import", "an import"],
];

// Places whose filters are unfolded on a narrow screen: each change builds the form anew, and the form must stay open.
const unfolded = new Set();

/** Returns a labelled field. `kind`: text, types, time, select, or checks (a list of choices). */
export function field(name, label, query, { kind = "text", choices = [], placeholder, required } = {}) {
  const id = `filter-${name}`;
  if (kind === "checks") return checks(name, label, choices, query.getAll(name));
  const control = {
    text: () =>
      h("input", {
        id,
        name,
        type: "text",
        value: query.get(name),
        placeholder,
        autocomplete: "off",
        spellcheck: "false",
        required,
      }),
    number: () =>
      h("input", { id, name, type: "number", min: 0, step: "any", value: query.get(name), placeholder, required }),
    types: () =>
      h("input", {
        id,
        name,
        type: "text",
        list: "known-types",
        value: query.getAll(name).join(", "),
        placeholder: placeholder ?? "payment.*",
        autocomplete: "off",
        spellcheck: "false",
        "data-kind": "types",
      }),
    time: () =>
      h("input", { id, name, type: "datetime-local", value: toInput(query.get(name)), "data-kind": "time" }),
    select: () =>
      h(
        "select",
        { id, name },
        choices.map(([value, text]) => h("option", { value, selected: (query.get(name) ?? "") === value }, text)),
      ),
  }[kind]();
  return h("label", { class: `field field-${kind}`, for: id }, label, control);
}

export function originField(query) {
  return field("origin", "Came as", query, { kind: "select", choices: ORIGINS });
}

function checks(name, label, choices, chosen) {
  return h(
    "fieldset",
    { class: "checks" },
    h("legend", {}, label),
    choices.map(([value, text]) =>
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", id: `filter-${name}-${value}`, name, value, checked: chosen.includes(value) }),
        h("span", {}, text),
      ),
    ),
  );
}

export function typeList() {
  return h(
    "datalist",
    { id: "known-types" },
    ["payment.*", "payment.fraud.*", "customer.*", "customer.subscription.*", ...KNOWN_TYPES].map((value) =>
      h("option", { value }),
    ),
  );
}

/** Returns the values of a form: without empty fields, with types split at commas, and times in UTC. */
export function readForm(form) {
  const values = {};
  for (const control of form.elements) {
    if (!control.name || (control.type === "checkbox" && !control.checked)) continue;
    const value = control.value.trim();
    if (!value) continue;
    if (control.dataset.kind === "types") values[control.name] = value.split(/[\s,]+/).filter(Boolean);
    else if (control.dataset.kind === "time") values[control.name] = fromInput(value);
    else if (control.type === "checkbox") (values[control.name] ??= []).push(value);
    else values[control.name] = value;
  }
  return values;
}

/** Returns a form that writes changes to the address at once. `kept`: parts of the query that are not in the form. */
export function filterForm(place, { fields, more, query, kept = {}, count = 0 }) {
  const apply = () => go([place], { ...kept, ...readForm(form) });
  const submit = (event) => {
    event.preventDefault();
    apply();
  };
  const form = h(
    "form",
    { class: "filters", onsubmit: submit, onchange: apply, "aria-label": "Filters" },
    typeList(),
    foldButton(place, count),
    h(
      "div",
      { class: "filter-row" },
      fields,
      count > 0 && button("Clear filters", () => go([place], kept), { kind: "quiet small", sign: "cross" }),
    ),
    more &&
      h(
        "details",
        { class: "more", open: more.some((name) => query.get(name.key)) },
        h("summary", {}, "More filters"),
        h(
          "div",
          { class: "filter-row" },
          more.map((item) => item.node),
        ),
      ),
    h("button", { type: "submit", class: "unseen", tabindex: "-1" }, "Apply"),
  );
  form.classList.toggle("unfolded", unfolded.has(place));
  return form;
}

/** Returns the button that unfolds the filters on a narrow screen, where they would fill most of the first screen. */
function foldButton(place, count) {
  const turn = ({ currentTarget: node }) => {
    const open = !unfolded.delete(place);
    if (open) unfolded.add(place);
    node.setAttribute("aria-expanded", String(open));
    node.form.classList.toggle("unfolded", open);
  };
  return h(
    "button",
    {
      type: "button",
      class: "fold",
      id: `fold-${place}`,
      "aria-expanded": String(unfolded.has(place)),
      onclick: turn,
    },
    icon("next", 12),
    "Filters",
    count > 0 && h("span", { class: "badge info" }, `${count} active`),
  );
}

/** Returns the named parameters of the address as an object for the API. */
export function pick(query, names) {
  const values = {};
  for (const name of names) {
    const all = query.getAll(name).filter(Boolean);
    if (all.length > 0) values[name] = all.length > 1 ? all : all[0];
  }
  return values;
}
