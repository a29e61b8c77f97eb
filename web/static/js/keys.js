// A user's API keys: the list, a new one, revoking. A key's text is shown once, when it is made.

import { call, caller, signedIn } from "./api.js";
import { confirmed, copyButton, during, el, field, toast, when } from "./dom.js";

const RANKS = ["reader", "user", "admin"];
const LIVES = [["", "as long as needed"], ["7", "a week"], ["30", "30 days"], ["365", "a year"]];

/** The keys of a user, to list, to make and to revoke; call `list()` to fill it. */
export function keysOf(user) {
  const path = `/users/${encodeURIComponent(user.username)}`;
  const made = el("div", { "aria-live": "polite" });
  const rows = el("div", {});
  const list = async () => {
    const all = (await call("GET", `${path}/api-keys`)).data.api_keys.filter((key) => key.revoked === null);
    rows.replaceChildren(all.length
      ? el("ul", {}, all.map((key) => row(key, () => revoke(key))))
      : el("p", { class: "hint" }, "No key yet."));
  };
  const revoke = async (key) => {
    if (!await confirmed(`Revoke ${key.label || key.id}?`, "Programs that use this key are refused from now on.", "Revoke")) return;
    await call("DELETE", `${path}/api-keys/${encodeURIComponent(key.id)}`);
    toast("The key is revoked");
    made.replaceChildren();
    await list();
  };
  const add = async (body) => {
    const key = (await call("POST", `${path}/api-key`, body)).data;
    made.replaceChildren(secret(key.api_key));
    await list();
  };
  return { element: el("div", { class: "keys" }, made, rows, newKey(user, add)), list };
}

/** A new key's text, to copy now. */
const secret = (text) => el("div", { class: "secret" },
  el("p", {}, el("b", {}, "Copy this key now."), " It cannot be shown again."),
  el("div", { class: "actions" }, el("code", {}, text), copyButton(() => text)));

function newKey(user, add) {
  const name = `key-${user.username}`;
  const label = el("input", { id: `${name}-label`, maxlength: "190", autocomplete: "off", placeholder: "what it is for" });
  const role = el("select", { id: `${name}-role` }, RANKS.slice(0, RANKS.indexOf(user.role) + 1).reverse().map((one) => el("option", {}, one)));
  const life = el("select", { id: `${name}-life` }, LIVES.map(([days, words]) => el("option", { value: days }, words)));
  const form = el("form", { class: "inline" },
    el("div", { class: "row" }, field("Label", label), field("Role, at most", role), field("Good for", life),
      el("button", { type: "submit" }, "New key")),
    el("p", { class: "error", role: "alert", hidden: true }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(form, async () => {
      await add({ label: label.value.trim(), role: role.value, expires_in_days: life.value ? Number(life.value) : null });
      form.reset();
    });
  });
  return form;
}

function row(key, revoke) {
  const use = key.last_used ? `used ${when(key.last_used)}` : "never used";
  const until = key.expires ? ` · until ${when(key.expires)}` : "";
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const item = el("li", {},
    el("form", { class: "heading" },
      el("div", {}, el("p", {}, key.label || "no label", el("span", { class: "mono" }, ` emb_${key.id}_…`)),
        el("p", { class: "hint" }, `${key.role ?? "as its owner"} · ${use}${until}`)),
      el("button", { type: "submit", class: "quiet small danger-text", "aria-label": `Revoke ${key.label || key.id}` }, "Revoke"), error));
  item.querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); during(event.target, revoke); });
  return item;
}

/** Whether a user is the one who is signed in. */
export const isMe = (user) => signedIn() && caller().username === user.username;
