// The hash holds the address, so each view with its filters can have a bookmark and an entry in the history.

import { queryText } from "./api.js";

/** Returns "#/events?status=dead" of path parts and a query. Parts are encoded: ids come from outside. */
export function href(parts, query) {
  return `#/${[parts].flat().map(encodeURIComponent).join("/")}${queryText(query)}`;
}

export function go(parts, query) {
  location.hash = href(parts, query);
}

/** Changes the address without a new entry in the history. */
export function replace(parts, query) {
  history.replaceState(history.state, "", href(parts, query));
}

/** Returns the place that the hash names: decoded path parts and the query. */
export function here() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return { parts: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(query) };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function eventLink(id) {
  return href(["events", id]);
}

const FOLDERS = {
  transaction: "transactions",
  subscription: "subscriptions",
  customerProfile: "customers",
  customerPaymentProfile: "payment-profiles",
};

/** Returns the link to an entity's timeline, or null if entities of this name have no timeline. */
export function timelineOf(entityName, account, id) {
  const folder = Object.hasOwn(FOLDERS, entityName ?? "") ? FOLDERS[entityName] : null;
  return folder && id ? href([folder, account, id]) : null;
}

/** Returns the link to the timeline that an event belongs to, or null. */
export function timelineLink(event) {
  return timelineOf(event.entity_name, event.account, event.entity_id);
}
