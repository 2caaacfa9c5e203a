// Sentences about the state of an event, and the meaning of the provider's event types.

import { duration, named, plural, roughly, secondsBetween, shortType } from "./format.js";

const TYPES = {
  "payment.authorization.created": "Authorisation",
  "payment.authcapture.created": "Sale",
  "payment.capture.created": "Capture",
  "payment.priorAuthCapture.created": "Capture",
  "payment.refund.created": "Refund",
  "payment.void.created": "Void",
  "payment.fraud.held": "Held for review",
  "payment.fraud.approved": "Review approved",
  "payment.fraud.declined": "Review declined",
  "customer.created": "Customer created",
  "customer.updated": "Customer updated",
  "customer.deleted": "Customer deleted",
  "customer.paymentProfile.created": "Payment profile created",
  "customer.paymentProfile.updated": "Payment profile updated",
  "customer.paymentProfile.deleted": "Payment profile deleted",
  "customer.subscription.created": "Subscription created",
  "customer.subscription.updated": "Subscription updated",
  "customer.subscription.suspended": "Subscription suspended",
  "customer.subscription.terminated": "Subscription terminated",
  "customer.subscription.cancelled": "Subscription cancelled",
  "customer.subscription.expiring": "Subscription expires soon",
  "customer.subscription.expired": "Subscription expired",
  "customer.subscription.failed": "Subscription payment failed",
};
const ENTITIES = {
  transaction: "Transaction",
  subscription: "Subscription",
  customerProfile: "Customer profile",
  customerPaymentProfile: "Payment profile",
};

export const KNOWN_TYPES = Object.keys(TYPES);

/** Returns "Sale", or an unknown type itself. A name, not a result: the event may report that the sale was declined. */
export function typeWords(type) {
  const short = shortType(type);
  return named(TYPES, short);
}

export function entityWords(event) {
  return named(ENTITIES, event.entity_name ?? "Entity");
}

/** Returns the error for one line of a list. The lead-in is left out, since the attempts have their own column. */
export function briefError(error) {
  return (error ?? "").replace(/^all \d+ attempts are spent; the last one raised /, "");
}

/** Returns the reason as a sentence, for the place below a title that gives the number of attempts. */
function reasonText(reason) {
  const rest = reason.replace(/^all \d+ attempts are spent; /, "");
  return rest.charAt(0).toUpperCase() + rest.slice(1);
}

/** Returns the status at this moment: a title, and a sentence for the place below it. */
export function story(event) {
  const reason = event.dead_reason ?? event.last_error ?? event.error;
  const age = roughly(secondsBetween(event.received_at, new Date().toISOString()));
  switch (event.status) {
    case "dead":
      return {
        title: `${event.discarded_at ? "Discarded" : "Given up"} after ${plural(event.attempts, "attempt")}`,
        text: reason ? reasonText(reason) : "No reason was recorded.",
        quote: Boolean(reason),
      };
    case "processed":
      return {
        title: event.finished_at
          ? `Processed ${duration(secondsBetween(event.received_at, event.finished_at))} after receipt`
          : "Processed",
        text:
          event.attempts > 1
            ? `It succeeded at attempt ${event.attempts}. Its effects are in the database.`
            : "Its effects are in the database.",
      };
    case "retrying":
      return {
        title: retryTitle(event),
        text: reason ? reasonText(lastLine(reason)) : "The last attempt failed.",
        quote: Boolean(reason),
      };
    case "queued":
      return { title: "In the queue, waits for a worker", text: `Received ${age} ago. It is safe in PostgreSQL.` };
    case "received":
      return {
        title: "Received, waits to be sent to the queue",
        text: `Received ${age} ago. It is safe in PostgreSQL and is sent as soon as SQS takes it.`,
      };
    default:
      return { title: `Status: ${event.status}`, text: reason ?? "" };
  }
}

/** Returns the last line of a traceback, which has its meaning; the whole is further down the page. */
function lastLine(error) {
  return error.startsWith("Traceback") ? error.trim().split("\n").at(-1) : error;
}

function retryTitle(event) {
  if (!event.retry_at) return "Waits for its next attempt";
  const left = secondsBetween(new Date().toISOString(), event.retry_at);
  return left > 0 ? `Waits for its next attempt in ${roughly(left + 1)}` : "Its next attempt is due now";
}

export function isEnded(event) {
  return event.status === "processed" || event.status === "dead";
}
