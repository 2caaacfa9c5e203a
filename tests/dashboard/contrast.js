// Of every text that is seen: its contrast with what is behind it (WCAG 2.2, 1.4.3), where it is less than it must be.
// Controls that are disabled need none.
() => {
  const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const parts = (colour) => {
    pixel.clearRect(0, 0, 1, 1);
    pixel.fillStyle = colour;
    pixel.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((part, i) => part * a + under[i] * (1 - a));
  const ground = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const layer = parts(getComputedStyle(at).backgroundColor);
      layers.push(layer);
      if (layer[3] === 1) break;
    }
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    return layers.reverse().reduce((under, layer) => over(layer, under), dark ? [18, 18, 18] : [255, 255, 255]);
  };
  const light = (colour) => {
    const [r, g, b] = colour
      .map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Map();
  let looked = 0;
  const look = (node, text, style) => {
    const shown = node.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!shown || node.closest(":disabled, [aria-disabled=true], .unseen")) return;
    const { width, height } = node.getBoundingClientRect();
    if (width < 2 || height < 2) return;
    looked += 1;
    const under = ground(node);
    let opacity = 1;
    for (let at = node; at; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
    const ink = parts(node instanceof SVGElement ? style.fill : style.color);
    const colour = over([ink[0], ink[1], ink[2], ink[3] * opacity], under);
    const [a, b] = [light(colour), light(under)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const name = node.className.baseVal ?? node.className;
    if (contrast < (large ? 3 : 4.5)) found.set(`${contrast.toFixed(2)} ${name}`, text.slice(0, 40));
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const node = walker.currentNode.parentElement;
    if (text && !node.closest("script, noscript, option, datalist, title")) look(node, text, getComputedStyle(node));
  }
  for (const field of document.querySelectorAll("input, select, textarea")) {
    if (field.type === "checkbox") continue;
    look(field, field.value || field.type, getComputedStyle(field));
    if (field.placeholder && !field.value) look(field, field.placeholder, getComputedStyle(field, "::placeholder"));
  }
  return { looked, faint: [...found].map(([what, text]) => `${what}: ${text}`) };
}
