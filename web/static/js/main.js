// The console's frame: its tabs, the service's state at the top, signing in and out.

import * as address from "./address.js";
import { ApiError, call, caller, identify, may, signIn, signOut, signedIn, signsInBy } from "./api.js";
import { $, el, toast } from "./dom.js";
import { tabs } from "./tabs.js";

const STATUS_MS = 10000, LOADING_MS = 1500;
// What draws a tab is fetched meanwhile: on a slow line it is known sooner who is calling.
const TABS = [
  { name: "try", load: () => import("./try.js") }, { name: "collections", load: () => import("./collections.js") },
  { name: "models", load: () => import("./models.js") }, { name: "live", load: () => import("./live.js") },
  { name: "admin", load: () => import("./admin.js") },
];
const mark = tabs($("tabs"), choose);
let open = null; // the tab that is shown
// A browser never fetches a module again that failed to load: the page has to be loaded anew. By itself
// that happens only where the service was away: what else is in the way would have it happen for ever.
const reload = () => location.reload();
let away = false;
let timer = null; // until the service's state is asked for again
let again = null; // what is tried again once the service is well

/** Show what the address says: a tab, and in it what else the address names. */
async function go(place) {
  if (!place.tab) {
    place = { tab: TABS[0].name, name: null, query: {} };
    address.write(place, { replace: true });
  }
  const tab = TABS.find((one) => one.name === place.tab), moved = open === tab && tab?.part?.move;
  if (open !== tab) {
    open?.part?.hide?.();
    notice(null);
    document.title = tab ? `${$(`tab-${tab.name}`).textContent} · Embedding Service` : "Embedding Service";
  }
  open = tab;
  mark(tab?.name);
  for (const one of TABS) $(`panel-${one.name}`).hidden = one !== tab || !one.part;
  if (!tab) return lost(place.tab);
  const panel = $(`panel-${tab.name}`);
  panel.setAttribute("aria-busy", "true"); // what is still empty is drawn as waiting
  $("loading").hidden = Boolean(tab.part);
  try {
    await ready(tab);
    if (open !== tab) return;
    $("loading").hidden = true;
    panel.hidden = false;
    await (moved ? moved(place) : tab.part.show(place));
    if (open === tab) notice(null);
  } catch (error) {
    if (open !== tab) return;
    notice("This could not be shown", error.message, "Try again", tab.part ? () => go(address.read()) : reload, error.status);
  } finally {
    panel.removeAttribute("aria-busy");
  }
}

/** Resolves once a tab has its part. */
async function ready(tab) {
  const part = tab.part ?? await tab.load().catch(() => { throw new ApiError(0, "The service does not answer. Is it running?"); });
  if (!tab.part) part.setUp();
  tab.part = part;
}

/** A person chose a tab: it is drawn anew. */
function choose(name) {
  const place = { tab: name, name: null, query: {} };
  address.write(place);
  if (open?.name === name) {
    open.part?.hide?.();
    open = null;
  }
  go(place);
}

/** Say that the address leads nowhere, and where one can go. */
function lost(name) {
  const known = TABS[0].name;
  notice("There is no such page", `The address of this page names “${name}”. There are ${TABS.map((one) => $(`tab-${one.name}`).textContent).join(", ")}.`,
    `Go to ${$(`tab-${known}`).textContent}`, () => choose(known));
}

/** Say above the page what is in the way, and offer the way out; null takes it away. What failed for
    want of the service (no status, or one of its own failures) is tried again when that is well. */
function notice(title, text, way, act, status) {
  again = status === 0 || status >= 500 ? act : null;
  if (again) tellStatus(LOADING_MS);
  $("loading").hidden = true;
  $("notice").hidden = title === null;
  if (title === null || $("notice").textContent === title + text + way) return;
  $("notice").replaceChildren(el("h1", {}, title), el("p", {}, text),
    el("div", { class: "actions" }, el("button", { type: "button", onclick: act }, way)));
}

/** Ask for the service's state in so many milliseconds. */
function tellStatus(wait) {
  clearTimeout(timer);
  timer = setTimeout(status, wait);
}

async function status() {
  let wait = STATUS_MS;
  try {
    const { data } = await call("GET", "/", undefined, { silent: true });
    $("status").replaceChildren(el("span", { class: `dot ${data.status}` }), data.status);
    $("version").textContent = `Version ${data.version}`;
    if (data.status === "loading") wait = LOADING_MS;
    else if (again !== reload || away) again?.();
    away = false;
  } catch {
    away = true;
    $("status").replaceChildren(el("span", { class: "dot unhealthy" }), "not answering");
  }
  tellStatus(again ? LOADING_MS : wait);
}

/** Show who is calling, and only what they may use. */
function account() {
  const me = caller();
  const name = me?.auth_enabled ? `${me.username.replace("key/", "")} · ` : ""; // else it is an address
  $("who").textContent = signedIn() && me ? name + me.role : "";
  $("account").textContent = signedIn() ? "Sign out" : "Sign in";
  $("account").hidden = !signedIn() && (may("admin") || !signsInBy().length); // there is nothing to gain
  $("tab-admin").textContent = me?.auth_enabled && !may("admin") ? "Account" : "Admin";
  $("tabs").hidden = me === null;
  for (const tab of TABS) $(`tab-${tab.name}`).hidden = me === null;
}

async function start() {
  try {
    await identify();
  } catch (error) {
    notice("The service is not ready", error.message, "Try again", start, error.status);
    return;
  }
  account();
  if (caller()) first();
  else {
    notice("Welcome", "This service asks who you are: sign in to go on.", "Sign in", enter);
    enter();
  }
}

/** Show what the address says, from the beginning. */
function first() {
  open = null;
  $("loading").hidden = true;
  go(address.read());
}

function enter() {
  const before = open;
  // Who chose a tab meanwhile stays there: drawn twice, it would lose what they pressed.
  signIn(null).then(() => { if (open === before) first(); }, () => {});
}

for (const tab of TABS) ready(tab).catch(() => {}); // where that fails it is tried again when the tab is opened
address.onMove((place) => { if (caller()) go(place); });
$("account").addEventListener("click", () => { if (signedIn()) signOut().catch((error) => toast(error.message)); else enter(); });
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the page's own
  $("content").focus();
});
document.addEventListener("signed", account);
document.addEventListener("enter", enter);
status();
start();
