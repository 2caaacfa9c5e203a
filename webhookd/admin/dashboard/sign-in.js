// The sign-in form. It sends the token to the daemon once, and gets a cookie that scripts cannot read.

import { signIn } from "./api.js";
import { h, setText } from "./dom.js";

/** Returns the form, which calls `onDone` after a sign-in. `notice` says why the person must sign in again. */
export function buildSignIn({ notice, onDone }) {
  const token = h("input", {
    type: "password",
    id: "token",
    autocomplete: "current-password",
    required: true,
    autofocus: true,
    spellcheck: "false",
    "aria-describedby": "token-help token-error",
  });
  const problem = h("p", { id: "token-error", class: "problem", role: "alert" });
  const send = h("button", { type: "submit", class: "button primary wide" }, "Sign in");
  const submit = async (event) => {
    event.preventDefault();
    send.disabled = true;
    setText(problem, "");
    try {
      await signIn(token.value.trim());
      onDone();
    } catch (error) {
      setText(
        problem,
        error.status === 401
          ? "The daemon does not know this token. Check that you copied the whole token, and that it is still in use."
          : error.message,
      );
      token.select();
    } finally {
      send.disabled = false;
    }
  };
  return h(
    "main",
    { class: "sign-in" },
    h(
      "form",
      { onsubmit: submit, class: "card stack" },
      h("img", { src: "/assets/icon.svg", alt: "", width: 40, height: 40 }),
      h("h1", {}, "webhookd"),
      notice
        ? h("p", { class: "note" }, notice)
        : h("p", { class: "faint" }, "Payment webhooks, stored durably and processed once."),
      h("label", { class: "field" }, "Token", token),
      problem,
      send,
      h(
        "div",
        { id: "token-help", class: "help" },
        h("p", {}, "The daemon's settings hold the tokens:"),
        h(
          "dl",
          {},
          h("div", {}, h("dt", {}, h("code", {}, "WEBHOOKD_ADMIN_TOKENS")), h("dd", {}, "may look and operate")),
          h("div", {}, h("dt", {}, h("code", {}, "WEBHOOKD_READ_TOKENS")), h("dd", {}, "may only look")),
        ),
        h("p", {}, "You need no token to read ", h("a", { href: "/guide" }, "the guide"), "."),
      ),
    ),
  );
}
