// Makes elements. Whatever the server or a person wrote goes in as text, never as markup:
// there is no innerHTML in this folder, and a test holds that.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Make an HTML element: `el("p", {class: "hint"}, "text", otherElement)`. */
export const el = (tag, props = {}, ...children) => fill(document.createElement(tag), props, children);

/** Make an SVG element. */
export const svg = (tag, props = {}, ...children) => fill(document.createElementNS(SVG, tag), props, children);

/** Show a message for a few seconds. */
export function toast(message) {
  const note = el("p", { class: "toast" }, message);
  $("toasts").append(note);
  setTimeout(() => note.remove(), 4000);
}

/** Show an error in the form's own place for it, or take it away with null. */
export function complain(where, error) {
  where.hidden = !error;
  where.textContent = error ? error.message : "";
}

/** A button that copies what `text()` returns. */
export function copyButton(text, label = "Copy") {
  const button = el("button", { type: "button", class: "quiet small" }, label);
  button.addEventListener("click", async () => {
    try {
      await copy(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy by hand";
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  });
  return button;
}

/** Put a text into the clipboard. Throws where the browser does not let the page. */
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Over plain HTTP from another machine there is only the old way: select it and copy.
  const before = document.activeElement;
  const holder = el("textarea", { class: "unseen", readonly: true, "aria-hidden": "true" });
  holder.value = text;
  document.body.append(holder);
  holder.select();
  const copied = document.execCommand("copy");
  holder.remove();
  before.focus();
  if (!copied) throw new Error("The browser did not copy.");
}

let answer = () => {};

/** Ask in a dialog; resolves to whether the answer was yes. */
export function confirmed(title, text, yes) {
  answer(false); // the question before may be closed and its event still to come
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    answer = resolve;
    dialog.onclose = () => { if (!dialog.open) resolve(dialog.returnValue === "yes"); };
  });
}

/** Run `work` while the form's button is busy, and show what goes wrong in its `.error`.
    `work` is given a function that shows an error meanwhile, such as what is waited for. */
export async function during(form, work) {
  const button = form.querySelector("button[type=submit]");
  const place = form.querySelector(".error");
  complain(place, null);
  button.disabled = true;
  form.setAttribute("aria-busy", "true");
  try {
    const result = await work((error) => complain(place, error));
    complain(place, null);
    return result;
  } catch (error) {
    complain(place, error);
    return null;
  } finally {
    button.disabled = false;
    form.removeAttribute("aria-busy");
  }
}

/** Whether the form's fields are right; if not, its `.error` says what is wrong with the first. For
    forms with `noValidate`: the browser's own bubble would stand beside an older error. */
export function correct(form) {
  const wrong = form.querySelector(":is(input, select, textarea):invalid");
  if (!wrong) return true;
  const label = wrong.labels?.[0]?.textContent;
  complain(form.querySelector(".error"), { message: `${label ? `${label}: ` : ""}${wrong.validationMessage}` });
  wrong.focus();
  return false;
}

export const linesOf = (text) => text.split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
export const whole = (number) => number.toLocaleString("en");
export const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;

/** A moment, given in seconds since 1970, in the reader's own way. */
export const when = (seconds) => new Date(1000 * seconds).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

/** An input with its label over it. */
export const field = (label, input) => el("div", {}, el("label", { for: input.id }, label), input);

/** A row of figures: `facts({Tokens: 12})`. */
export const facts = (values) => el("dl", { class: "facts" },
  Object.entries(values).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))));
