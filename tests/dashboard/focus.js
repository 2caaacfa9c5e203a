// The controls that the Tab key must reach, in the order of the document, and what the screen shows of the focus.
// `begin` notes how each control looks without the focus. `now` returns the number of the control with the focus, and
// whether the screen shows the focus; [] if a part that scrolls has it, which is a stop in Firefox; null if nothing has it.
(() => {
  const NATIVE = "a[href], button, input, select, textarea, summary";
  const isStop = (node) =>
    node.tabIndex >= 0 &&
    !node.disabled &&
    !node.closest("[inert]") &&
    node.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true });
  const shown = (node, part) => {
    const style = getComputedStyle(node, part);
    const outline = style.outlineStyle === "none" ? "" : `${style.outlineStyle} ${style.outlineWidth} ${style.outlineColor}`;
    return [outline, style.boxShadow, style.borderColor, style.stroke, style.strokeWidth].join();
  };
  const look = (node) =>
    [node, node.closest("label") ?? node, ...node.querySelectorAll("*")]
      .flatMap((each) => [shown(each), shown(each, "::after")])
      .join("\n");
  const name = (node) => `${node.tagName.toLowerCase()}.${node.className.baseVal ?? node.className} ${node.textContent}`.slice(0, 80);
  const stops = () => [...document.querySelectorAll(`${NATIVE}, [tabindex]`)].filter(isStop);
  let before = [];
  return {
    begin() {
      const start = document.createElement("span"); // the Tab key goes on from here
      start.tabIndex = -1;
      document.body.prepend(start);
      start.focus();
      before = stops().map(look);
      return stops().map(name);
    },
    now() {
      const node = document.activeElement;
      const at = stops().indexOf(node); // a view may replace a control by its like
      const scrolls = node.scrollHeight > node.clientHeight || node.scrollWidth > node.clientWidth;
      if (at < 0) return scrolls && node !== document.body ? [] : null;
      return [at, look(node) !== before[at]];
    },
    // Elements that act at a click, but that the keyboard cannot reach. A row has a link that does the same.
    deaf: (clickable) =>
      clickable
        .filter((node) => node.isConnected && !node.matches(`${NATIVE}, dialog`))
        .filter((node) => ![...node.children].every((row) => row.querySelector(".row-link")))
        .map(name),
  };
})()
