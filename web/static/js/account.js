// What who is no admin may do with their own account (make keys, change the password), and why they
// are no admin where nobody has an account.

import { call, enter, signsInBy } from "./api.js";
import { copyButton, during, el, field, toast } from "./dom.js";
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

/** Why the caller is no admin, and the line to copy that changes it. */
export function whyNoAdmin(me) {
  const card = el("div", { class: "card" }, el("h2", {}, "Why you are not an admin here"));
  const enterButton = el("button", { type: "button", onclick: () => document.dispatchEvent(new Event("enter")) }, "Sign in");
  if (me.auth_enabled) { // with API_KEY_SECRET
    card.append(el("p", { class: "hint" }, "You use the service's fixed key, API_KEY_SECRET. It embeds, stores and searches; it cannot change users, keys or settings."),
      ...(signsInBy().includes("password")
        ? [el("p", {}, "Sign out, and sign in as an admin. The first start has made one: the log names the file with its password.")]
        : lines("Start the service with a secret for signing as well. The first start then makes an admin, and the log names the file with its password.", "JWT_SECRET_KEY")));
    return card;
  }
  card.append(el("p", { class: "hint" }, `Nobody has to sign in here (AUTH_ENABLED is false), so only who works on the machine itself is an admin. Your requests come from ${me.username} and are sent to ${location.hostname}. Requests into a container or through a proxy never count as local.`));
  if (signsInBy().length) card.append(el("p", {}, "Sign in with the ADMIN_TOKEN that the service was started with."), el("div", { class: "actions" }, enterButton));
  else card.append(...lines("Start the service with an ADMIN_TOKEN, then sign in here with it. This one was just made, and is stored nowhere:", "ADMIN_TOKEN"));
  return card;
}

/** How to start the service with a secret in a variable, for each way to run it. */
function lines(text, variable) {
  const line = `${variable}=${randomSecret()}`;
  const ways = { "From a shell": `${line} make run`, "An option of docker run": `-e ${line}`, "With docker compose": `echo ${line} >> .env && docker compose up -d` };
  return [el("p", {}, text), el("dl", { class: "ways" }, Object.entries(ways).map(([way, command]) => el("div", {},
    el("dt", {}, way), el("dd", {}, el("code", {}, command), copyButton(() => command)))))];
}

/** 256 random bits, as the service's documentation has secrets made. */
function randomSecret() {
  const bytes = crypto.getRandomValues(new Uint8Array(32));
  return btoa(String.fromCharCode(...bytes)).replace(/[+/=]/g, (c) => ({ "+": "-", "/": "_", "=": "" })[c]);
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
