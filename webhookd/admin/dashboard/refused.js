// Samples of refused webhooks: what was received, and what is likely wrong.

import { get } from "./api.js";
import { h } from "./dom.js";
import { field, filterForm, pick } from "./filters.js";
import { bytes } from "./format.js";
import { href } from "./navigation.js";
import { pagedList } from "./pages.js";
import { emptyState, facts, heading, section, when } from "./parts.js";

const NAMES = ["reason", "account"];
const REASONS = {
  signature_missing: "No signature",
  signature_malformed: "Malformed signature",
  signature_mismatch: "Signature does not verify",
  unknown_account: "No such account",
  unknown_path: "No such path",
  content_encoding: "Compressed body",
  too_large: "Body too large",
  too_slow: "Body too slow",
  truncated: "Body cut off",
  bad_expect: "Unknown Expect header",
};

export function refused(context) {
  const { root, query, signal } = context;
  context.title("Refused");
  const filter = pick(query, NAMES);
  const samples = h("div", { class: "samples" });
  const list = pagedList({
    context,
    table: samples,
    add: (rows) => samples.append(...rows.map(sample)),
    fetchPage: async (cursor) => {
      const page = await get("/webhooks/refused", { ...filter, limit: 50, cursor }, signal);
      return { rows: page.samples, next: page.next };
    },
    empty: () => nothing(filter),
  });
  root.append(
    heading("Refused"),
    h(
      "p",
      { class: "lead" },
      "Samples of webhooks that were refused, the newest first: a few for each account and reason, for two weeks. " +
        "Nothing here is authentic. Anyone can send it.",
    ),
    filterForm("refused", {
      query,
      count: Object.keys(filter).length,
      fields: [
        field("reason", "Why", query, {
          kind: "select",
          choices: [["", "Any reason"], ...Object.entries(REASONS)],
        }),
        field("account", "Account", query, { placeholder: "default" }),
      ],
    }),
    list.node,
  );
}

function sample(row) {
  const size = row.size === null ? "unknown length" : bytes(row.size);
  return section(
    `${row.status}: ${REASONS[row.reason] ?? row.reason}`,
    h("p", {}, row.likely),
    facts([
      ["Refused", when(row.refused_at)],
      ["Account", row.account],
      ["Path", h("code", {}, row.path)],
      ["Peer (behind a proxy, the proxy)", row.peer],
      ["X-Forwarded-For says", row.forwarded_for],
      ["Signature header", row.header],
      ["Body", [size, row.content_type].filter(Boolean).join(", ")],
      ["First bytes", row.first_bytes && h("code", {}, row.first_bytes)],
    ]),
  );
}

function nothing(filter) {
  if (Object.keys(filter).length > 0) {
    return emptyState(
      "No sample matches these filters",
      h("a", { href: href(["refused"]) }, "Clear the filters"),
    );
  }
  return emptyState(
    "No refused webhook was sampled",
    "webhookd refused nothing in the last two weeks, or WEBHOOKD_REFUSED_SAMPLES is 0.",
  );
}
