// Talks to the service. The token lives in this module's memory and nowhere else.

import { $, complain } from "./dom.js";

let token = null;
let asking = null;
const ROUTES = new Set(document.body.dataset.routes.split("\n"));

/** Whether the service has a route, written as in its table: `has("GET /metrics")`. */
export const has = (route) => ROUTES.has(route);
export const signedIn = () => token !== null;
export const signOut = () => { token = null; changed(); };
const changed = () => document.dispatchEvent(new Event("signed"));

/** What a reply with an error status says. */
export class ApiError extends Error {
  constructor(status, message, retryAfter) {
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
      if (token === used) await signIn("Please sign in to go on.");
      continue;
    }
    const data = await read(response);
    const ms = performance.now() - started;
    if (!response.ok) throw new ApiError(response.status, messageOf(response, data), response.headers.get("Retry-After"));
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
  try { return JSON.parse(text); } catch { return text; }
}

function messageOf(response, data) {
  const error = data && data.error;
  return (error && (error.message || error)) || `The service answered ${response.status}.`;
}

/** Ask for a password or a key; rejects when the person cancels. */
export function signIn(reason) {
  asking ??= ask(reason).finally(() => { asking = null; });
  return asking;
}

function ask(reason) {
  const dialog = $("sign-in");
  const form = dialog.querySelector("form");
  const place = form.querySelector(".error");
  complain(place, reason ? new Error(reason) : null);
  $("sign-in-password").hidden = !has("POST /token");
  form.reset();
  dialog.showModal();
  return new Promise((resolve, reject) => {
    const stop = new AbortController();
    let done = false;
    form.querySelector("[data-close]").addEventListener("click", () => dialog.close(), { signal: stop.signal });
    dialog.addEventListener("close", () => {
      stop.abort();
      form.reset();
      if (done) resolve(); else reject(new ApiError(401, "You are not signed in."));
    }, { signal: stop.signal });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        token = $("key").value.trim() || await tokenFor($("username").value, $("password").value);
        done = true;
        dialog.close();
        changed();
      } catch (error) {
        complain(place, error);
      }
    }, { signal: stop.signal });
  });
}

async function tokenFor(username, password) {
  const reply = await call("POST", "/token", { username, password }, { silent: true });
  return reply.data.access_token;
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
