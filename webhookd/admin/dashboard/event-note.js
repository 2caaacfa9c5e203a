// The note beside an event on a timeline. Rows of events have no amounts: the facts that the events have set do.

import { money } from "./format.js";

const SETTLED = {
  "authorization.created": "authorized_amount",
  "authcapture.created": "captured_amount",
  "capture.created": "captured_amount",
  "priorAuthCapture.created": "captured_amount",
  "refund.created": "refunded_amount",
};
const ASKS = ["authorization.created", "authcapture.created", "capture.created", "refund.created", "fraud.held"];

/** Returns whether the last failure of a transaction is at least as new as the last event that counts. */
export function isFailure(found) {
  if (!found.last_failure_type) return false;
  return !found.last_event_at || Date.parse(found.last_failure_at) >= Date.parse(found.last_event_at);
}

/** Returns "139.99", "139.99 requested", "failed", or null if the event's status says enough. */
export function noteOf(event, found) {
  if (event.status !== "processed") return null;
  const at = event.event_date ?? event.received_at;
  if (event.event_type === found.last_failure_type && at === found.last_failure_at) return "failed";
  const kind = event.event_type.split(".").slice(-2).join(".");
  const settled = found[SETTLED[kind]];
  if (settled) return money(settled);
  return ASKS.includes(kind) && found.requested_amount ? `${money(found.requested_amount)} requested` : null;
}
