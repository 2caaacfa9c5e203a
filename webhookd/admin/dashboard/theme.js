// A classic script in the head: the kept theme holds before the first paint, without a flash of the other one.
(() => {
  try {
    const kept = localStorage.getItem("webhookd-theme");
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch {
    // Storage may be forbidden; the system's theme is used then.
  }
})();
