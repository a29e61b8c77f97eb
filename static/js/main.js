// The console's frame: its tabs, the service's state at the top, signing in and out.

import * as admin from "./admin.js";
import { call, has, signIn, signOut, signedIn } from "./api.js";
import * as collections from "./collections.js";
import { $, el, toast } from "./dom.js";
import * as live from "./live.js";
import * as models from "./models.js";
import * as attempt from "./try.js";

const STATUS_MS = 10000;
const TABS = [
  { name: "try", part: attempt, needs: "POST /v1/embeddings" },
  { name: "collections", part: collections, needs: "GET /collections" },
  { name: "models", part: models, needs: "GET /models" },
  { name: "live", part: live, needs: "GET /metrics" },
  { name: "admin", part: admin, needs: "GET /settings" },
].filter((tab) => has(tab.needs));
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
  try {
    await tab.part.show();
  } catch (error) {
    toast(error.message);
  }
}

function keys(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const at = TABS.indexOf(open);
  const next = step ? TABS[(at + step + TABS.length) % TABS.length]
    : { Home: TABS[0], End: TABS[TABS.length - 1] }[event.key];
  if (!next) return;
  event.preventDefault();
  select(next, true);
}

async function status() {
  try {
    const { data } = await call("GET", "/", undefined, { silent: true });
    $("status").replaceChildren(el("span", { class: `dot ${data.status}` }), data.status);
    $("version").textContent = `Version ${data.version}`;
  } catch (error) {
    $("status").replaceChildren(el("span", { class: "dot unhealthy" }), "not answering");
  }
  setTimeout(status, STATUS_MS);
}

function account() {
  $("account").textContent = signedIn() ? "Sign out" : "Sign in";
  open?.part.signed?.();
}

for (const button of $("tabs").children) button.hidden = !TABS.some((tab) => `tab-${tab.name}` === button.id);
for (const tab of TABS) {
  tab.part.setUp();
  $(`tab-${tab.name}`).addEventListener("click", () => select(tab));
}
$("tabs").addEventListener("keydown", keys);
$("account").addEventListener("click", () => {
  if (signedIn()) signOut();
  else signIn(null).then(() => select(open), () => {});
});
document.addEventListener("signed", account);
status();
select(TABS.find((tab) => `#${tab.name}` === location.hash) ?? TABS[0]);
