// Modal dialogs on <dialog>: focus stays inside, Escape closes, the focus returns to where it was.

import { h } from "./dom.js";
import { button } from "./parts.js";

/** Opens a dialog. `build` gets a function that closes it with a value; the promise returns that value or null. */
export function openDialog(title, build, signal) {
  const { promise, resolve } = withResolvers();
  const before = document.activeElement;
  const node = h("dialog", { class: "dialog", "aria-label": title });
  const close = (value = null) => {
    resolve(value);
    node.close();
  };
  node.append(h("h2", {}, title), h("div", { class: "dialog-body" }, build(close)));
  node.addEventListener("click", (event) => {
    if (event.target === node && !node.dataset.keep) close();
  });
  node.addEventListener("close", () => {
    resolve(null);
    node.remove();
    before?.isConnected && before.focus({ preventScroll: true });
  });
  signal?.addEventListener("abort", () => close(), { once: true });
  document.body.append(node);
  node.showModal();
  return promise;
}

/** Asks for a confirmation with a note. Returns {note} or null. */
export function confirmWithNote({ title, text, warning, action, kind = "primary", required = false, signal }) {
  return openDialog(
    title,
    (close) => {
      const note = h("input", { type: "text", maxlength: 500, required, autofocus: true, autocomplete: "off" });
      const submit = (event) => {
        event.preventDefault();
        close({ note: note.value.trim() });
      };
      return h(
        "form",
        { onsubmit: submit, class: "stack" },
        [text].flat().map((line) => h("p", {}, line)),
        warning && h("p", { class: "warning" }, warning),
        h("label", { class: "field" }, required ? "Reason" : "Reason (optional; it goes into the audit trail)", note),
        h(
          "div",
          { class: "actions" },
          button("Cancel", () => close(), { kind: "quiet" }),
          button(action, null, { kind, type: "submit" }),
        ),
      );
    },
    signal,
  );
}

function withResolvers() {
  let resolve;
  const promise = new Promise((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
