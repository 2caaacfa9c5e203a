// What is wider than the screen: the page, by so many pixels, or parts that are cut off and cannot be scrolled to.
() => {
  const edge = document.documentElement.clientWidth;
  const scrolls = (node) =>
    node !== document.body && (/auto|scroll/.test(getComputedStyle(node).overflowX) || scrolls(node.parentElement));
  const cut = [...document.querySelectorAll("#app *, .guide *, dialog *")].filter(
    (node) =>
      node.checkVisibility({ visibilityProperty: true }) &&
      !node.closest(".unseen, svg") &&
      node.getBoundingClientRect().right > edge + 1 &&
      !scrolls(node),
  );
  const wider = document.documentElement.scrollWidth - edge;
  return [...(wider > 0 ? [`the page: ${wider} px`] : []), ...cut.map((node) => `${node.tagName} ${node.className}`)];
}
