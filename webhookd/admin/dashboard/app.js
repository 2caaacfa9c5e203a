// The start of the dashboard: the sign-in, the frame, and the view that the address names.

import { ApiError, signOut, whoAmI } from "./api.js";
import { deadLetters } from "./dead-letters.js";
import { destinationPage } from "./destination-page.js";
import { destinations } from "./destinations.js";
import { h, pause, show } from "./dom.js";
import { eventPage } from "./event-page.js";
import { events } from "./events.js";
import { listenToKeys } from "./keyboard.js";
import { here } from "./navigation.js";
import { operationPage } from "./operation-page.js";
import { operations } from "./operations.js";
import { overview } from "./overview.js";
import { errorState, heading } from "./parts.js";
import { setPace, startPulse, stopPulse } from "./pulse.js";
import { provider } from "./provider.js";
import { providerPage } from "./provider-page.js";
import { quarantine } from "./quarantine.js";
import { quarantinePage } from "./quarantine-page.js";
import { reconciliationPage } from "./reconciliation-page.js";
import { refused } from "./refused.js";
import { replay } from "./replay.js";
import { buildShell } from "./shell.js";
import { buildSignIn } from "./sign-in.js";
import { customerPage, paymentProfilePage, subscriptionPage, transactionPage } from "./timeline.js";
import { toast } from "./toasts.js";

// The views by the first path part, and by the number of parts after it.
const VIEWS = {
  "": [overview],
  events: [events, eventPage],
  "dead-letters": [deadLetters, eventPage],
  quarantine: [quarantine, quarantinePage],
  refused: [refused],
  destinations: [destinations, destinationPage],
  provider: [provider, providerPage],
  reconciliation: [null, reconciliationPage],
  operations: [operations, operationPage],
  replay: [replay],
  transactions: [null, null, transactionPage],
  subscriptions: [null, null, subscriptionPage],
  customers: [null, null, customerPage],
  "payment-profiles": [null, null, paymentProfilePage],
};
const TITLE = "webhookd";

const app = document.getElementById("app");
let frame = null;
let frameEnd = null;
let viewEnd = null;
let shownPath = null;

async function start() {
  for (;;) {
    try {
      await whoAmI();
      return openFrame();
    } catch (error) {
      if (error.status === 401) return askToken();
      show(
        app,
        h(
          "main",
          { class: "centred" },
          errorState(error, () => location.reload(), "h1"),
          h("p", { class: "faint" }, "Trying again every few seconds."),
        ),
      );
      await pause(error.retryAfter ?? 3);
    }
  }
}

function openFrame() {
  frameEnd = new AbortController();
  frame = buildShell({ onSignOut: leave, signal: frameEnd.signal });
  show(app, frame.node);
  shownPath = null;
  startPulse();
  openView();
}

function closeFrame() {
  viewEnd?.abort();
  frameEnd?.abort();
  frame = null;
  stopPulse();
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
}

function askToken(notice) {
  document.title = `Sign in – ${TITLE}`;
  // The hash stays as it is, so that a sign-in returns to the same view.
  show(app, buildSignIn({ notice, onDone: openFrame }));
  document.getElementById("token").focus();
}

async function leave() {
  try {
    await signOut();
    closeFrame();
    askToken("You are signed out.");
  } catch (error) {
    toast(error.message, "bad");
  }
}

/**
 * Replaces the view. The old view's signal ends the work that the old view has running. `fresh`: the person asked for
 * the view anew, and did not go back to it, so the view shows nothing that is kept.
 */
function openView({ fresh = false } = {}) {
  if (!frame) return;
  viewEnd?.abort();
  viewEnd = new AbortController();
  const { parts, query } = here();
  const [place = "", ...args] = parts;
  const view = VIEWS[place]?.[args.length];
  const focus = document.activeElement?.id;
  const samePath = shownPath === parts.join("/");
  shownPath = parts.join("/");
  const root = h("div", { class: "view" });
  show(frame.main, root);
  frame.mark();
  setPace({ quick: view === overview });
  document.title = TITLE;
  const context = {
    root,
    args,
    query,
    place,
    signal: viewEnd.signal,
    key: visitKey(),
    fresh,
    reload: () => openView({ fresh: true }),
    title: (text) => {
      document.title = `${text} – ${TITLE}`;
    },
  };
  if (view) view(context);
  else root.append(heading("There is no such page"), h("p", {}, h("a", { href: "#/" }, "Go to the overview")));
  // A changed filter builds the view anew: the field with the focus must keep it. No view may lose the focus.
  const kept = samePath ? document.getElementById(focus) : null;
  (kept ?? frame.main).focus({ preventScroll: true });
  if (!samePath) window.scrollTo(0, 0);
}

/** Returns the key of this entry of the history, so that a list finds its loaded rows when the person goes back. */
function visitKey() {
  if (!history.state?.key) history.replaceState({ key: String(Math.random()) }, "");
  return history.state.key;
}

window.addEventListener("hashchange", () => openView());
window.addEventListener("signed-out", () => {
  if (!frame) return;
  closeFrame();
  askToken("Your session has ended. Sign in again to return to this page.");
});
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name === "AbortError") event.preventDefault();
  else if (event.reason instanceof ApiError) toast(event.reason.message, "bad");
});
listenToKeys();
start();
