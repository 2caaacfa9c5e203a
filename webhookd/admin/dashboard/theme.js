// A classic script in the head: it sets the kept theme before the first paint, so the other theme does not flash.
(() => {
  try {
    const kept = localStorage.getItem("webhookd-theme");
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch {
    // The browser may forbid storage; then the system's theme is used.
  }
})();
