// The provider's side of all accounts: each one's webhook, its credentials, and the last day that is over.

import { get, isLeft } from "./api.js";
import { every, h, show } from "./dom.js";
import { href } from "./navigation.js";
import { chip, emptyState, errorState, heading, skeleton, when } from "./parts.js";
import { dayWords } from "./provider-days.js";

const REFRESH = 5;
const HEADS = ["Webhook", "Account", "Credentials", "Last day", "Days not whole", "Compared"];
export const PROVIDER = "/webhooks/provider/accounts";

export async function provider(context) {
  const { root, signal } = context;
  context.title("Provider");
  const body = h("tbody");
  const table = h(
    "table",
    { class: "rows" },
    h("caption", { class: "unseen" }, "Accounts by name"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        HEADS.map((text) => h("th", { scope: "col", class: text === "Days not whole" ? "figure" : null }, text)),
      ),
    ),
    body,
  );
  const list = h("div", { class: "list" }, skeleton(3));
  root.append(
    heading("Provider"),
    h(
      "p",
      { class: "lead" },
      "What Authorize.Net says: whether it sends webhooks, and whether all of its notifications are here. ",
      h("a", { href: "/guide/gaps" }, "How this is judged"),
    ),
    list,
  );
  body.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !String(getSelection()))
      event.target.closest("tr")?.querySelector(".row-link")?.click();
  });
  let shown = "";
  async function refresh() {
    const { accounts } = await get(PROVIDER, {}, signal);
    const text = JSON.stringify(accounts);
    // Do not build unchanged rows again: a selection or the focus in them would be lost.
    if (text === shown) return;
    shown = text;
    const focus = document.activeElement?.dataset?.name;
    if (accounts.length === 0) return show(list, nothing());
    show(body, accounts.map(accountRow));
    if (!table.isConnected) show(list, table);
    if (focus) body.querySelector(`[data-name="${CSS.escape(focus)}"]`)?.focus();
  }
  try {
    await refresh();
  } catch (error) {
    if (!isLeft(error)) show(list, errorState(error, context.reload));
    return;
  }
  // The shell shows that the daemon is away. The rows stay.
  every(REFRESH, () => refresh().catch(() => {}), signal);
}

function accountRow(row) {
  return h(
    "tr",
    {},
    h("td", { class: "cell-status" }, chip(row.webhook_state)),
    h(
      "td",
      { class: "cell-type" },
      h("a", { class: "row-link", href: href(["provider", row.account]), "data-name": row.account }, row.account),
      row.merchant_name && h("span", { class: "account", title: "Merchant" }, row.merchant_name),
    ),
    h("td", { "data-label": "Credentials" }, chip(row.credentials)),
    h("td", { "data-label": "Last day" }, row.last_day ? dayWords(row.last_day) : "–"),
    h("td", { class: `figure ${row.days_not_whole ? "bad" : ""}`, "data-label": "Days not whole" }, row.days_not_whole),
    h("td", { class: "cell-time", "data-label": "Compared" }, when(row.compared_at, "never")),
  );
}

function nothing() {
  return emptyState(
    "No account has API credentials",
    "With credentials, webhookd asks Authorize.Net whether webhooks are missing, and fetches them.",
    h("a", { href: "/guide/gaps" }, "How to set them"),
  );
}
