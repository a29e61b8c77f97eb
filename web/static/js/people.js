// Users: who there is, their role and their keys.

import { call, guarded } from "./api.js";
import { $, complain, confirmed, during, el, field, toast } from "./dom.js";
import { isMe, keysOf } from "./keys.js";

const ROLES = { reader: "reads and searches", user: "also stores", admin: "may do all" };

/** Draw the users. */
export async function show() {
  const { users } = (await call("GET", "/users")).data;
  $("admin-people").replaceChildren(el("div", { class: "card" }, el("h2", {}, "Users"),
    guarded() ? null : el("p", { class: "hint" }, "Nobody has to sign in: AUTH_ENABLED is false. Users and their keys count once it is true."),
    users.length ? el("ul", { class: "people" }, users.map(person)) : el("p", { class: "empty" }, "There is no user yet."),
    newUser()));
}

const roles = (id, chosen) => el("select", { id }, Object.entries(ROLES).map(([role, words]) =>
  el("option", { value: role, selected: role === chosen }, `${role}: ${words}`)));

function newUser() {
  const name = el("input", { id: "user-name", required: true, autocomplete: "off" });
  const password = el("input", { id: "user-password", type: "password", required: true, minlength: "8", autocomplete: "new-password" });
  const role = roles("user-role", "user");
  const form = el("form", { class: "inline" }, el("h3", {}, "New user"),
    el("div", { class: "row" }, field("Username", name), field("Password", password), field("Role", role),
      el("button", { type: "submit" }, "Add user")),
    el("p", { class: "error", role: "alert", hidden: true }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async () => {
      await call("POST", "/users", { username: name.value, password: password.value, role: role.value });
      toast(`${name.value} is added`);
      await show();
      $("user-name").focus(); // all is drawn anew: the keyboard goes on here
    });
  });
  return form;
}

const pathOf = (user, rest = "") => `/users/${encodeURIComponent(user.username)}${rest}`;

function person(user) {
  const keys = keysOf(user);
  keys.element.hidden = true;
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const doing = (work) => async (event) => { try { complain(error, null); await work(event); } catch (problem) { complain(error, problem); } };
  const toggle = async (event) => {
    const closed = !keys.element.hidden;
    if (!closed) await keys.list();
    keys.element.hidden = closed;
    event.target.setAttribute("aria-expanded", String(!closed));
  };
  const remove = async () => {
    if (!await confirmed(`Delete ${user.username}?`, "Their keys stop working at once.", "Delete")) return;
    await call("DELETE", pathOf(user));
    toast(`${user.username} is deleted`);
    await show();
    $("user-name").focus();
  };
  const role = isMe(user) ? el("span", { class: "hint" }, `${user.role} (you)`) : roleOf(user, doing);
  return el("li", { "data-user": user.username },
    el("div", { class: "heading" }, el("p", { class: "who" }, user.username),
      el("div", { class: "actions" }, role,
        el("button", { type: "button", class: "quiet small", "aria-expanded": "false", "aria-label": `Keys of ${user.username}`, onclick: doing(toggle) }, "Keys"),
        isMe(user) ? null : el("button", { type: "button", class: "quiet small danger-text", "aria-label": `Delete ${user.username}`, onclick: doing(remove) }, "Delete"))),
    error, keys.element);
}

function roleOf(user, doing) {
  const select = roles(null, user.role);
  select.setAttribute("aria-label", `Role of ${user.username}`);
  select.className = "small";
  select.addEventListener("change", doing(async () => {
    await call("POST", pathOf(user, "/password"), { role: select.value });
    toast(`${user.username} is ${select.value} now`);
    await show();
    document.querySelector(`[data-user="${CSS.escape(user.username)}"] select`)?.focus();
  }));
  return select;
}
