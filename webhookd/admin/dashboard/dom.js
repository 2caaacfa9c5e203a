// Elements are built from text nodes only: what a webhook brings can never become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. `onclick` and the like are listeners, all else are attributes; null and false are left out. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...flat(children));
  return node;
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Puts the children in the place of all that the node held. */
export function show(node, ...children) {
  node.replaceChildren(...flat(children));
  return node;
}

/** Writes a text only when it differs: a screen reader's live region must not repeat what it said. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Runs a function again and again until the signal ends it; not while the tab is hidden. */
export function every(seconds, work, signal) {
  const timer = setInterval(() => {
    if (!document.hidden) work();
  }, seconds * 1000);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
}

/** Waits; rejects when the signal ends the view that waits. */
export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        reject(signal.reason);
      },
      { once: true },
    );
  });
}
