// A webhook's body: formatted for reading, and the exact bytes as they were received.

import { h, show } from "./dom.js";
import { button, copyButton } from "./parts.js";

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;
const LONGEST = 200_000;

/** Returns the body with a switch between formatted and exact, and a copy button that copies the exact text. */
export function bodyView(body) {
  if (!body) return h("p", { class: "faint" }, "The body is no longer kept.");
  const pretty = body.encoding === "utf-8" ? layOut(body.text) : null;
  const code = h("pre", { class: "code", tabindex: 0, "aria-label": "Body" });
  const switchTo = (exact) => {
    show(code, exact || !pretty ? body.text : pretty);
    code.classList.toggle("exact", exact || !pretty);
    for (const [node, on] of [
      [formatted, !exact],
      [raw, exact],
    ])
      node.setAttribute("aria-pressed", String(on));
  };
  const formatted = button("Formatted", () => switchTo(false), { kind: "small segment" });
  const raw = button("Exact", () => switchTo(true), { kind: "small segment" });
  switchTo(!pretty);
  return h(
    "div",
    { class: "body-view" },
    h(
      "div",
      { class: "body-tools" },
      pretty ? h("div", { class: "segments" }, formatted, raw) : h("span", { class: "faint" }, notPretty(body)),
      copyButton(body.text, "Copy exact body"),
    ),
    body.mended.length > 0 &&
      h("p", { class: "note plain-note" }, `To read this body, webhookd had to mend it: ${body.mended.join("; ")}.`),
    code,
  );
}

function notPretty(body) {
  if (body.encoding === "base64") return "These bytes are not text, so this page shows them as base64.";
  return "The body is not JSON, or too long to format, so this page shows the exact text.";
}

/**
 * Formats JSON from its own tokens. No number is parsed and written again: 300.00 stays 300.00, and long ids keep
 * all their digits. Returns null if the text is not JSON, or is too long.
 */
function layOut(text) {
  if (text.length > LONGEST || !isJson(text)) return null;
  const parts = [];
  const tokens = text.match(TOKEN) ?? [];
  let depth = 0;
  tokens.forEach((token, i) => {
    const next = tokens[i + 1];
    if (token === "{" || token === "[") {
      const empty = next === "}" || next === "]";
      if (!empty) depth += 1;
      parts.push(token, empty ? "" : newline(depth));
    } else if (token === "}" || token === "]") {
      const empty = tokens[i - 1] === "{" || tokens[i - 1] === "[";
      if (!empty) depth -= 1;
      parts.push(empty ? "" : newline(depth), token);
    } else if (token === ",") parts.push(",", newline(depth));
    else if (token === ":") parts.push(": ");
    else parts.push(h("span", { class: tokenClass(token, next) }, token));
  });
  return parts;
}

function newline(depth) {
  return `\n${"  ".repeat(depth)}`;
}

function tokenClass(token, next) {
  if (token.startsWith('"')) return next === ":" ? "json-name" : "json-text";
  return "json-value";
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
