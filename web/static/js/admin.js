// The Admin tab: people, providers and settings. Who is no admin sees their own account there, or why.

import { caller, may } from "./api.js";
import { $ } from "./dom.js";
import { ownAccount, whyNoAdmin } from "./account.js";
import * as people from "./people.js";
import * as providers from "./providers.js";
import * as settings from "./settings.js";

const PARTS = ["admin-people", "admin-providers", "admin-settings"];

/** Nothing to prepare: each part draws itself when the tab is opened. */
export function setUp() {}

/** Called whenever the tab is opened; the address may name one of the parts. */
export async function show(place) {
  const admin = may("admin"), me = caller();
  // The old rows would be replaced when the answers come, and a press on one would be lost.
  for (const part of PARTS) $(part).replaceChildren();
  $("admin-title").textContent = admin || !me.auth_enabled ? "Admin" : "Account";
  $("admin-lead").textContent = admin ? "Changes take effect at once. Settings can be undone."
    : me.auth_enabled ? "Your keys and your password." : "Loading models, settings, users and providers' keys are for admins.";
  if (admin) {
    await Promise.all([people.show(), providers.show(), settings.show()]);
    if (PARTS.includes(`admin-${place.name}`)) $(`admin-${place.name}`).scrollIntoView();
  }
  else $("admin-people").replaceChildren(me.auth_enabled && !me.username.includes("/") ? ownAccount(me) : whyNoAdmin(me));
}
