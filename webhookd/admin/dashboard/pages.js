// Lists that load page by page. A page may be short or empty while more rows follow: then the list loads the next page.

import { isLeft } from "./api.js";
import { h, setText, show } from "./dom.js";
import { localTime } from "./format.js";
import { button, errorState, skeleton } from "./parts.js";

const FOLLOW = 12;
const STILL = 2000; // milliseconds after the pointer moved over a list, until its rows may move
const kept = new Map();

/**
 * Loads pages with `fetchPage(cursor)` → {rows, next, searchedTo} and passes the rows to `add`. Loaded rows are kept
 * under the visit's key, so that going back shows the same list at the same place. `refresh()` fetches the first page
 * again and passes its rows to `renew`, unless the person is using the list.
 */
export function pagedList({ context, fetchPage, add, renew, table, empty, wanted = 50 }) {
  const foot = h("div", { class: "list-foot", "aria-live": "polite" });
  const node = h("div", { class: "list" }, skeleton(10));
  const state = { rows: [], next: null, searchedTo: null, stop: false, pages: 0, loading: false, at: null };

  function take(rows) {
    if (state.rows.length === 0 && rows.length > 0) show(node, table, foot);
    state.rows.push(...rows);
    add(rows);
  }

  async function more() {
    state.stop = false;
    state.loading = true;
    let found = 0;
    try {
      for (let calls = 0; calls < FOLLOW && !state.stop; calls += 1) {
        const page = await fetchPage(state.next);
        Object.assign(state, { next: page.next, searchedTo: page.searchedTo ?? null, at: Date.now() });
        state.pages += 1;
        found += page.rows.length;
        take(page.rows);
        if (!state.next || found >= wanted) break;
        tell(true);
      }
      tell(false);
    } catch (error) {
      if (!isLeft(error)) fail(error);
    } finally {
      state.loading = false;
    }
  }

  /** Returns whether rows may move: not after a second page, whose rows would vanish, nor just before a click. */
  function mayMove() {
    const selected = getSelection();
    return (
      state.pages === 1 &&
      !state.loading &&
      window.scrollY < 8 &&
      !node.contains(document.activeElement) &&
      (selected.isCollapsed || !selected.containsNode(node, true)) &&
      Date.now() - moved > STILL
    );
  }

  async function refresh() {
    if (!mayMove()) return;
    try {
      const page = await fetchPage(null);
      if (!mayMove()) return;
      const before = state.rows.length;
      Object.assign(state, { next: page.next, searchedTo: page.searchedTo ?? null, at: Date.now() });
      state.rows.splice(0, before, ...page.rows);
      if (before === 0 && page.rows.length > 0) show(node, table, foot);
      renew(page.rows);
      tell(false);
    } catch {
      // The shell shows that the daemon is away. The rows stay.
    }
  }

  function tell(searching) {
    if (state.rows.length === 0 && !searching && !state.next) return show(node, empty());
    if (state.rows.length === 0) show(node, searching ? skeleton(4) : null, foot);
    const back = state.searchedTo ? `searched back to ${localTime(state.searchedTo)}` : "";
    if (searching) {
      return show(
        foot,
        h("span", { class: "spinner" }),
        h("span", {}, `Searching … ${back}`),
        button(
          "Stop",
          () => {
            state.stop = true;
          },
          { kind: "small" },
        ),
      );
    }
    const shown = `${state.rows.length.toLocaleString()} shown`;
    if (!state.next) return show(foot, h("span", {}, `${shown}. This is the end of the list.`));
    return show(
      foot,
      h("span", {}, back ? `${shown}, ${back}.` : `${shown}.`),
      button(found(state) ? "Load more" : "Continue the search", (event) => loadMore(event.currentTarget), {}),
    );
  }

  function loadMore(node) {
    node.disabled = true;
    setText(node, "Loading …");
    more();
  }

  function fail(error) {
    const again = errorState(error, more);
    if (state.rows.length === 0) show(node, again);
    else show(foot, again);
  }

  const before = kept.get(context.key);
  if (before && !context.fresh && Date.now() - before.left < 300_000) {
    const { next, searchedTo, pages, at } = before;
    Object.assign(state, { next, searchedTo, pages, at });
    take(before.rows);
    tell(false);
    requestAnimationFrame(() => window.scrollTo(0, before.scroll));
  } else more();
  let moved = 0;
  node.addEventListener("pointermove", () => {
    moved = Date.now();
  });
  const scrolled = trackScroll(context.signal);
  context.signal.addEventListener("abort", () => {
    const { rows, next, searchedTo, pages, at } = state;
    const place = { scroll: scrolled(), left: Date.now() };
    if (rows.length > 0) kept.set(context.key, { rows, next, searchedTo, pages, at, ...place });
    if (kept.size > 20) kept.delete(kept.keys().next().value);
  });
  return { node, rows: state.rows, refresh, loadedAt: () => state.at };
}

function found(state) {
  return state.rows.length > 0;
}

/** Returns a function for the scroll position as it was before the browser changed it for the next view. */
function trackScroll(signal) {
  let top = window.scrollY;
  window.addEventListener(
    "scroll",
    () => {
      top = window.scrollY;
    },
    { signal, passive: true },
  );
  return () => top;
}
