// Elements are built from text nodes only: text of a webhook can never become markup.

const SVG = "http://www.w3.org/2000/svg";

/** Returns an HTML element. Names like `onclick` are listeners, other names attributes; null and false are left out. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** Returns an SVG element, in the same way. */
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

/** Replaces all children of the node. */
export function show(node, ...children) {
  node.replaceChildren(...flat(children));
  return node;
}

/** Writes a text only if it differs: a live region must not make a screen reader repeat the text. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Runs a function at intervals until the signal ends this, but not while the tab is hidden. */
export function every(seconds, work, signal) {
  const timer = setInterval(() => {
    if (!document.hidden) work();
  }, seconds * 1000);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
}

/** Waits. Rejects when the signal ends the view that waits. */
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
