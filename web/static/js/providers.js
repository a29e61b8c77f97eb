// Remote providers: where each one's key comes from, how its hosts are, and a try of the key.

import { call } from "./api.js";
import { $, complain, confirmed, correct, during, el, field, toast, when, whole } from "./dom.js";

const SOURCES = { stored: "stored key", environment: "key of the environment", none: "no key" };
// How a provider is, in words, and the dot beside them: green only after a call that succeeded.
export const STATES = {
  no_key: "needs a key", unchecked: "not checked yet", reachable: "reachable", failing: "failing",
  key_wrong: "key refused", open: "not called for a while after failures",
};
const DOTS = { unchecked: "unknown", reachable: "healthy" };

/** Draw the providers. */
export async function show() {
  const { providers } = (await call("GET", "/providers")).data;
  $("admin-providers").replaceChildren(el("div", { class: "card" }, el("h2", {}, "Providers"),
    el("p", { class: "hint" }, "Keys are stored encrypted and never shown again."),
    providers.length ? el("ul", { class: "people" }, providers.map((one) => row(one))) : el("p", { class: "empty" }, "There is no provider.")));
}

const pathOf = (provider, rest) => `/providers/${encodeURIComponent(provider)}/${rest}`;

/** One provider; `said` is the outcome of a try, an Error if it failed. */
function row(one, said = null) {
  const name = one.provider;
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const swap = (next) => { place.replaceWith(next); next.querySelector("button")?.focus(); };
  const form = keyForm(one, (now) => { swap(row(now)); return trial(name, true); });
  const doing = (work) => async (event) => {
    event.target.disabled = true;
    try { complain(error, null); await work(); } catch (problem) { complain(error, problem); } finally { event.target.disabled = false; }
  };
  const test = doing(() => trial(name, false));
  const remove = doing(async () => {
    if (!await confirmed(`Delete the key of ${name}?`, "The environment's key is used again, if there is one.", "Delete")) return;
    const { data } = await call("DELETE", pathOf(name, "api-key"));
    toast(`The key of ${name} is deleted`);
    swap(row(data));
  });
  const open = () => { form.hidden = !form.hidden; if (!form.hidden) form.querySelector("input").focus(); };
  const button = (text, act, kind = "") => el("button", { type: "button", class: `quiet small ${kind}`, "aria-label": `${text}: ${name}`, onclick: act }, text);
  const place = el("li", { "data-provider": name },
    el("div", { class: "heading" },
      el("div", {}, el("p", { class: "who" }, name), el("p", { class: "hint" }, keyWords(one))),
      el("div", { class: "actions" }, one.configured ? button("Test", test) : null,
        button(one.configured ? "Replace key" : "Store a key", open),
        one.key_source === "stored" || unread(one) ? button("Delete", remove, "danger-text") : null)),
    hosts(one), one.problem && said === null ? el("p", { class: "note" }, sayable(one.problem)) : null,
    said && !(said instanceof Error) ? el("p", { class: "well", role: "status" }, said) : null, error, form);
  if (said instanceof Error) complain(error, { message: sayable(said.message) });
  return place;
}

/** Try a provider's key by one small call, and show what came of it in its row. A new key is tried
    at once; where no model could try it, nothing is said then. */
async function trial(name, isNew) {
  const outcome = await call("POST", pathOf(name, "test")).then(({ data }) =>
    `${data.model} answered with ${whole(data.dimension)} dimensions in ${data.ms.toFixed(0)} ms.`, (problem) => problem);
  const { providers } = (await call("GET", "/providers")).data;
  const place = document.querySelector(`[data-provider="${CSS.escape(name)}"]`), one = providers.find((other) => other.provider === name);
  if (!place || !one) return;
  const next = row(one, isNew && outcome.status === 400 ? null : outcome);
  place.replaceWith(next);
  next.querySelector("button")?.focus();
}

/** A problem without the request that would mend it: the button for that is beside it. */
const sayable = (problem) => problem.replace(/; POST \/providers\/\S+ sets another/, "; replace it");

function keyWords(one) {
  const four = one.last_four ? ` ending in ${one.last_four}` : "";
  return `${SOURCES[one.key_source]}${four}${one.last_used ? ` · used ${when(one.last_used)}` : ""}`;
}

/** Whether there is a stored key that cannot be used: its problem is none of a host's. */
const unread = (one) => one.problem !== null && !Object.values(one.hosts).some(({ problem }) => problem === one.problem);

function hosts(one) {
  const known = Object.entries(one.hosts);
  return known.length ? el("ul", { class: "hosts" }, known.map(([host, { state }]) =>
    el("li", {}, el("span", { class: `dot ${DOTS[state] ?? ""}` }), `${host} · ${STATES[state]}`))) : null;
}

function keyForm(one, stored) {
  const id = `provider-key-${one.provider}`;
  const input = el("input", { id, type: "password", required: true, autocomplete: "off", spellcheck: "false" });
  const form = el("form", { class: "inline", hidden: true, novalidate: true },
    el("div", { class: "row" }, field(`API key of ${one.provider}`, input), el("button", { type: "submit" }, "Store")),
    el("p", { class: "error", role: "alert", hidden: true }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (correct(form)) during(form, async () => {
      const { data } = await call("POST", pathOf(one.provider, "api-key"), { api_key: input.value.trim() });
      toast(`The key of ${one.provider} is stored`);
      await stored(data);
    });
  });
  return form;
}
