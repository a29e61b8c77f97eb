// Users and their API keys. A key's text is shown once, when it is made.

import { call } from "./api.js";
import { $, complain, confirmed, copyButton, during, el, toast } from "./dom.js";

const ROLES = ["user", "reader", "admin"];

/** Draw the users. Without accounts the service says so, and so does this. */
export async function show() {
  const { users } = (await call("GET", "/users")).data;
  $("admin-people").replaceChildren(el("div", { class: "card" }, el("h2", {}, "Users"),
    users.length ? el("ul", { class: "people" }, users.map(person)) : el("p", { class: "empty" }, "There is no user yet."),
    newUser()));
}

function newUser() {
  const name = el("input", { id: "user-name", required: true, autocomplete: "off" });
  const password = el("input", { id: "user-password", type: "password", required: true, minlength: "8", autocomplete: "new-password" });
  const role = el("select", { id: "user-role" }, ROLES.map((one) => el("option", {}, one)));
  const form = el("form", {}, el("h3", {}, "New user"),
    el("div", { class: "row" },
      el("div", {}, el("label", { for: "user-name" }, "Username"), name),
      el("div", {}, el("label", { for: "user-password" }, "Password"), password),
      el("div", {}, el("label", { for: "user-role" }, "Role"), role)),
    el("div", { class: "actions" }, el("button", { type: "submit" }, "Add user")),
    el("p", { class: "error", role: "alert", hidden: true }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async () => {
      await call("POST", "/users", { username: name.value, password: password.value, role: role.value });
      toast(`${name.value} is added`);
      await show();
    });
  });
  return form;
}

const pathOf = (user, rest = "") => `/users/${encodeURIComponent(user.username)}${rest}`;

function person(user) {
  const keys = el("div", { class: "keys" });
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const doing = (work) => async () => { try { complain(error, null); await work(); } catch (problem) { complain(error, problem); } };
  const list = async () => {
    const rows = (await call("GET", pathOf(user, "/api-keys"))).data.api_keys;
    keys.replaceChildren(rows.length
      ? el("ul", {}, rows.map((key) => keyRow(user, key, list, doing)))
      : el("p", { class: "hint" }, "No key yet."));
  };
  const add = async () => {
    const made = (await call("POST", pathOf(user, "/api-key"), { label: "console" })).data;
    await list();
    keys.prepend(el("div", { class: "secret" }, el("p", {}, "Keep this key now. It cannot be shown again."),
      el("div", { class: "actions" }, el("code", {}, made.api_key), copyButton(() => made.api_key))));
  };
  const remove = async () => {
    if (!await confirmed(`Delete ${user.username}?`, "Their keys stop working at once.", "Delete")) return;
    await call("DELETE", pathOf(user));
    toast(`${user.username} is deleted`);
    await show();
  };
  return el("li", { "data-user": user.username },
    el("div", { class: "heading" }, el("p", {}, el("b", {}, user.username), ` · ${user.role}`),
      el("div", { class: "actions" },
        el("button", { type: "button", class: "quiet small", onclick: doing(list) }, "Keys"),
        el("button", { type: "button", class: "quiet small", onclick: doing(add) }, "New key"),
        el("button", { type: "button", class: "quiet small danger-text", onclick: doing(remove) }, "Delete"))),
    keys, error);
}

function keyRow(user, key, list, doing) {
  const revoke = async () => { await call("DELETE", pathOf(user, `/api-keys/${encodeURIComponent(key.id)}`)); await list(); };
  return el("li", { class: "heading" }, el("p", { class: "mono" }, `${key.id} ${key.label || ""}`),
    el("button", { type: "button", class: "quiet small danger-text", onclick: doing(revoke) }, "Revoke"));
}
