// The console's frame: its tabs, the service's state at the top, signing in and out.

import * as admin from "./admin.js";
import { call, caller, identify, may, signIn, signOut, signedIn } from "./api.js";
import * as collections from "./collections.js";
import { $, el } from "./dom.js";
import * as live from "./live.js";
import * as models from "./models.js";
import * as attempt from "./try.js";

const STATUS_MS = 10000, LOADING_MS = 1500;
const TABS = [
  { name: "try", part: attempt, for: "read" },
  { name: "collections", part: collections, for: "read" },
  { name: "models", part: models, for: "read" },
  { name: "live", part: live, for: "read" },
  { name: "admin", part: admin, for: "read" },
];
const shown = () => TABS.filter((tab) => tab.name === "admin" ? may("admin") || signedIn() : may(tab.for));
let open = null;

async function select(tab, focus = false) {
  if (open !== tab) open?.part.hide?.();
  open = tab;
  for (const one of TABS) {
    const selected = one === tab;
    $(`tab-${one.name}`).setAttribute("aria-selected", String(selected));
    $(`tab-${one.name}`).tabIndex = selected ? 0 : -1;
    $(`panel-${one.name}`).hidden = !selected;
  }
  if (focus) $(`tab-${tab.name}`).focus();
  history.replaceState(null, "", `#${tab.name}`);
  notice(null);
  try {
    await tab.part.show();
  } catch (error) {
    if (open === tab) notice("This could not be shown", error.message, "Try again", () => select(tab));
  }
}

/** Say above the page what is in the way, and offer the way out; null takes it away. */
function notice(title, text, way, act) {
  $("notice").hidden = title === null;
  if (title === null) return;
  $("notice").replaceChildren(el("h1", {}, title), el("p", {}, text),
    el("div", { class: "actions" }, el("button", { type: "button", onclick: act }, way)));
}

function keys(event) {
  const tabs = shown(), at = tabs.indexOf(open);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const next = step ? tabs[(at + step + tabs.length) % tabs.length]
    : { Home: tabs[0], End: tabs[tabs.length - 1] }[event.key];
  if (!next) return;
  event.preventDefault();
  select(next, true);
}

async function status() {
  let wait = STATUS_MS;
  try {
    const { data } = await call("GET", "/", undefined, { silent: true });
    $("status").replaceChildren(el("span", { class: `dot ${data.status}` }), data.status);
    $("version").textContent = `Version ${data.version}`;
    if (data.status === "loading") wait = LOADING_MS;
  } catch {
    $("status").replaceChildren(el("span", { class: "dot unhealthy" }), "not answering");
  }
  setTimeout(status, wait);
}

/** Show who is calling, and only what they may use. */
function account() {
  const me = caller();
  $("who").textContent = signedIn() && me ? `${me.username} · ${me.role}` : "";
  $("account").textContent = signedIn() ? "Sign out" : "Sign in";
  $("account").hidden = !signedIn() && may("admin"); // there is nothing to gain
  $("tab-admin").textContent = may("admin") ? "Admin" : "Account";
  $("tabs").hidden = me === null;
  for (const tab of TABS) $(`tab-${tab.name}`).hidden = !shown().includes(tab);
}

async function start() {
  try {
    await identify();
  } catch (error) {
    notice("The service is not ready", error.message, "Try again", start);
    return;
  }
  account();
  if (caller()) first();
  else {
    notice("Welcome", "This service asks who you are: sign in with a username and a password, or with an API key.", "Sign in", enter);
    enter();
  }
}

/** Show the tab of the address, or the first one. */
function first() {
  const tabs = shown();
  select(tabs.find((tab) => `#${tab.name}` === location.hash) ?? tabs[0]);
}

function enter() {
  const before = open;
  // Who chose a tab meanwhile stays there: drawn twice, it would lose what they pressed.
  signIn(null).then(() => { if (open === before) first(); }, () => {});
}

for (const button of $("tabs").children) button.hidden = true;
for (const tab of TABS) {
  tab.part.setUp();
  $(`tab-${tab.name}`).addEventListener("click", () => select(tab));
}
$("tabs").addEventListener("keydown", keys);
$("account").addEventListener("click", () => { if (signedIn()) signOut(); else enter(); });
document.addEventListener("signed", account);
status();
start();
