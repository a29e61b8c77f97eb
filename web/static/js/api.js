// Talks to the service, and knows who is calling. The token is in this module's memory, nowhere else.

import { $, complain } from "./dom.js";
import { parse } from "./json.js";

const GUARDED = document.body.dataset.guarded === "true"; // whether callers must sign in
const WRITERS = ["user", "anonymous", "admin"];
const PATIENCE_S = 60; // how long a busy or loading service is waited for, in all
let token = null, asking = null, me = null;

/** Who is calling, `{username, role, auth_enabled}`; null where one must sign in first. */
export const caller = () => me;
export const signedIn = () => token !== null;
/** Whether callers must sign in. */
export const guarded = () => GUARDED;
/** Whether the caller may "read", "write" or use what is for an "admin". */
export const may = (what) => me !== null && { read: true, write: WRITERS.includes(me.role), admin: me.role === "admin" }[what];

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
    const used = token;
    const started = performance.now();
    const response = await send(method, path, body, options);
    if (response.status === 401 && !options.silent) {
      if (token === used) await signIn(used ? "You were signed out. Please sign in again." : "Please sign in to go on.");
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
  if (token) headers.Authorization = `Bearer ${token}`;
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
  if (GUARDED && !token) return (me = null);
  try {
    me = (await call("GET", "/users/me", undefined, { silent: true })).data;
  } catch (error) {
    if (error.status !== 401) throw error;
    me = null;
  }
  return me;
}

/** Sign out: the page starts anew, and nothing that was shown stays. */
export const signOut = () => location.reload();

/** Ask for a password or a key; rejects when the person cancels. */
export function signIn(reason) {
  asking ??= ask(reason).finally(() => { asking = null; });
  return asking;
}

function ask(reason) {
  const dialog = $("sign-in"), form = dialog.querySelector("form");
  const place = form.querySelector(".error"), button = form.querySelector("[type=submit]");
  complain(place, null);
  $("sign-in-reason").textContent = reason ?? "";
  $("sign-in-password").hidden = !GUARDED; // then only ADMIN_TOKEN counts
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
  if (!key && !(username && password)) throw new Error("Enter a username and a password, or an API key.");
  const before = token;
  const given = key || (await call("POST", "/token", { username, password }, { silent: true })).data.access_token;
  token = given;
  const known = await identify().catch(() => null);
  if (known && (GUARDED || known.role === "admin")) {
    document.dispatchEvent(new Event("signed"));
    return;
  }
  token = before;
  await identify().catch(() => null);
  throw new Error("This key is unknown, expired or revoked.");
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
