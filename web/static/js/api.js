// Talks to the service, and knows who is calling. The browser sends the session's cookie by itself:
// no script can read it.

import { $, complain } from "./dom.js";
import { parse } from "./json.js";

const WRITERS = ["user", "anonymous", "admin"];
const PATIENCE_S = 60; // how long a busy or loading service is waited for, in all
const tabsOfThisBrowser = new BroadcastChannel("session");
let session = null, entered = 0, asking = null;

/** Who is calling, `{username, role, ...}`; null where one must sign in first. */
export const caller = () => (session?.role ? session : null);
export const signedIn = () => session !== null && session.signed_in;
/** Whether callers must sign in. */
export const guarded = () => session !== null && session.auth_enabled;
/** What one can sign in with: "password", "key", "admin_token", or nothing. */
export const signsInBy = () => session?.takes ?? [];
/** Whether the caller may "read", "write" or use what is for an "admin". */
export const may = (what) => caller() !== null && { read: true, write: WRITERS.includes(session.role), admin: session.role === "admin" }[what];

const MISSING = {
  password: "Enter a username and a password, or an API key.", key: "Enter an API key.", admin_token: "Enter the ADMIN_TOKEN.",
};
const HINTS = {
  password: "An admin signs in with a password, or with a key of theirs.",
  key: "Passwords do not work here: JWT_SECRET_KEY is not set.",
  admin_token: "It is the value of ADMIN_TOKEN that the service was started with.",
};

/** What a reply with an error status says. `retryAfter` is in seconds, null if it does not say. */
export class ApiError extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Call a route; resolves to {data, headers, ms}. Asks to sign in when that is what it takes. */
export async function call(method, path, body, options = {}) {
  for (;;) {
    const before = entered, started = performance.now();
    const response = await send(method, path, body, options);
    if (response.status === 401 && !options.silent && signsInBy().length) {
      if (entered === before) await signIn(signedIn() ? "You were signed out. Please sign in again." : "Please sign in to go on.");
      continue;
    }
    const data = await read(response);
    const ms = performance.now() - started;
    if (!response.ok) throw errorOf(response, data);
    return { data, headers: response.headers, ms };
  }
}

async function send(method, path, body, { signal, accept = "application/json" }) {
  const headers = { Accept: accept };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, { method, headers, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The service does not answer. Is it running?");
  }
}

async function read(response) {
  const text = await response.text();
  if (!(response.headers.get("Content-Type") || "").includes("json")) return text;
  try { return parse(text); } catch { return text; }
}

function errorOf(response, data) {
  const error = data && data.error;
  const said = String((error && (error.message || error)) || `the service answered ${response.status}`);
  const wait = Number(response.headers.get("Retry-After")) || null;
  const again = wait && !/again/.test(said) ? `; try again in ${wait} s` : "";
  return new ApiError(response.status, sentence(said + again), wait);
}

/** The service's messages begin small; here they are sentences. Names of settings stay as they are. */
const sentence = (text) => (/^[a-z]+[ ,]/.test(text) ? text[0].toUpperCase() + text.slice(1) : text) + (/[.!?]$/.test(text) ? "" : ".");

/** Do `work`; while the reply is one of `statuses`, wait as asked and do it again, within a minute.
    `tell(error)` is called before each wait. */
export async function patiently(statuses, work, tell, signal) {
  for (let waited = 0; ;) {
    try {
      return await work();
    } catch (error) {
      const pause = error.retryAfter;
      if (!statuses.includes(error.status) || !pause || waited + pause > PATIENCE_S) throw error;
      tell(error);
      waited += pause;
      await new Promise((resolve) => setTimeout(resolve, 1000 * pause));
      signal?.throwIfAborted();
    }
  }
}

/** Ask the service who is calling; resolves to `caller()`. */
export async function identify() {
  session = (await call("GET", "/session", undefined, { silent: true })).data;
  return caller();
}

/** Sign out: the page starts anew, and nothing that was shown stays. */
export async function signOut() {
  await call("DELETE", "/session", undefined, { silent: true });
  tabsOfThisBrowser.postMessage(null);
  location.reload();
}

// Who signs in or out in one tab does so in all of them.
tabsOfThisBrowser.onmessage = async () => {
  const before = caller();
  const now = await identify().catch(() => null);
  if (now?.username !== before?.username || now?.role !== before?.role) location.reload();
};

/** Ask for a password or a key; rejects when the person cancels. */
export function signIn(reason) {
  asking ??= ask(reason).finally(() => { asking = null; });
  return asking;
}

function ask(reason) {
  const dialog = $("sign-in"), form = dialog.querySelector("form");
  const place = form.querySelector(".error"), button = form.querySelector("[type=submit]");
  complain(place, null);
  const takes = signsInBy();
  $("sign-in-reason").textContent = reason ?? "";
  $("sign-in-password").hidden = !takes.includes("password");
  $("sign-in-key").textContent = takes.includes("admin_token") ? "ADMIN_TOKEN" : "API key";
  $("sign-in-hint").textContent = HINTS[takes[0]];
  form.reset();
  dialog.showModal();
  return new Promise((resolve, reject) => {
    const stop = new AbortController();
    let done = false;
    const on = (node, name, listener) => node.addEventListener(name, listener, { signal: stop.signal });
    on(form.querySelector("[data-close]"), "click", () => dialog.close());
    on(dialog, "close", () => {
      stop.abort();
      form.reset();
      if (done) resolve(); else reject(new ApiError(401, "You are not signed in."));
    });
    on(form, "submit", async (event) => {
      event.preventDefault();
      button.disabled = true;
      try {
        await enter($("key").value.trim(), $("username").value, $("password").value);
        done = true;
        dialog.close();
      } catch (error) {
        complain(place, error);
      } finally {
        button.disabled = false;
      }
    });
  });
}

/** Become the owner of a key, or the user with this password. Throws if the service knows neither. */
export async function enter(key, username, password) {
  if (!key && !(username && password)) throw new Error(MISSING[signsInBy()[0]]);
  await call("POST", "/session", key ? { key } : { username, password }, { silent: true });
  await identify();
  if (!signedIn()) throw new Error("The browser did not keep the cookie of the sign-in. Allow cookies for this page.");
  entered += 1;
  tabsOfThisBrowser.postMessage(null);
  document.dispatchEvent(new Event("signed"));
}

/** Embed texts; resolves to {vectors, tokens, truncated, fingerprint, ms}. */
export async function embed(texts, model, options = {}) {
  const body = { model, input: texts, encoding_format: "base64", ...options };
  const { data, headers, ms } = await call("POST", "/v1/embeddings", body);
  return {
    vectors: data.data.map((row) => floats(row.embedding)),
    tokens: data.usage.prompt_tokens,
    truncated: Number(headers.get("X-Truncated-Inputs") || 0),
    fingerprint: headers.get("X-Embedding-Fingerprint"),
    ms,
  };
}

function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}
