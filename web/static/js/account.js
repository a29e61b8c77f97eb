// What a user who is no admin may do with their own account: make keys, change the password.

import { call, enter } from "./api.js";
import { during, el, field, toast } from "./dom.js";
import { keysOf } from "./keys.js";

/** The cards of the caller's own account. */
export function ownAccount(me) {
  const keys = keysOf(me);
  const error = el("p", { class: "error", role: "alert", hidden: true });
  keys.list().catch((problem) => { error.hidden = false; error.textContent = problem.message; });
  return el("div", {},
    el("div", { class: "card" }, el("h2", {}, "Your API keys"),
      el("p", { class: "hint" }, "Give each program a key of its own, so that you can take back one and not the others."),
      error, keys.element),
    passwordForm(me));
}

function passwordForm(me) {
  const given = (id, kind) => el("input", { id, type: "password", required: true, minlength: "8", autocomplete: kind });
  const now = given("password-now", "current-password"), next = given("password-next", "new-password");
  const form = el("form", { class: "card" }, el("h2", {}, "Password"),
    el("div", { class: "row" }, field("Current password", now), field("New password", next),
      el("button", { type: "submit" }, "Change")),
    el("p", { class: "error", role: "alert", hidden: true }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async () => {
      const body = { password: next.value, current_password: now.value };
      await call("POST", `/users/${encodeURIComponent(me.username)}/password`, body, { silent: true });
      await enter("", me.username, next.value); // the old token ended with the old password
      form.reset();
      toast("The password is changed");
    });
  });
  return form;
}
