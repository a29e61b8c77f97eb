// Fetches this service's own description; where it is closed, asks for a sign-in first. What is typed
// and what is given for it stay in this page's memory.
const form = document.getElementById("sign-in");
let credential = null;

function authorized(headers = {}) {
  return credential ? { ...headers, Authorization: `Bearer ${credential}` } : headers;
}

async function said(reply) {
  return (await reply.json().catch(() => ({}))).error ?? `the service answered ${reply.status}`;
}

async function token({ username, password, key }) {
  if (key) return key;
  const body = JSON.stringify({ username, password });
  const reply = await fetch("/token", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  if (!reply.ok) throw new Error(await said(reply));
  return (await reply.json()).access_token;
}

// Calls show(description), at once or after a sign-in; where it cannot be had, the page says why.
function withDescription(show) {
  load(show).catch((error) => {
    const note = document.createElement("p");
    note.setAttribute("role", "alert");
    note.textContent = `The description of the API could not be shown: ${error.message}. Reload the page to try again.`;
    document.getElementById("docs").replaceChildren(note);
  });
}

async function load(show) {
  const reply = await fetch("/openapi.json", { headers: authorized() });
  if (reply.ok) {
    form.remove();
    return show(await reply.json());
  }
  if (reply.status !== 401 || credential) throw new Error(await said(reply));
  document.getElementById("docs").replaceChildren(); // it is loaded after the sign-in
  form.hidden = false;
  form.elements.username.focus();
  form.onsubmit = async (event) => {
    event.preventDefault();
    try {
      credential = await token(Object.fromEntries(new FormData(form)));
      await load(show);
    } catch (error) {
      credential = null;
      form.querySelector("[role=alert]").textContent = error.message;
    }
  };
}
