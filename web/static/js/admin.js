// The Admin tab: people, providers and settings. Who is no admin sees their own account there.

import { caller, may } from "./api.js";
import { $ } from "./dom.js";
import { ownAccount } from "./account.js";
import * as people from "./people.js";
import * as providers from "./providers.js";
import * as settings from "./settings.js";

const PARTS = ["admin-people", "admin-providers", "admin-settings"];

/** Nothing to prepare: each part draws itself when the tab is opened. */
export function setUp() {}

/** Called whenever the tab is opened. */
export async function show() {
  const admin = may("admin");
  // The old rows would be replaced when the answers come, and a press on one would be lost.
  for (const part of PARTS) $(part).replaceChildren();
  $("admin-title").textContent = admin ? "Admin" : "Account";
  $("admin-lead").textContent = admin
    ? "Changes take effect while the service runs, and settings can be taken back."
    : "Your keys and your password.";
  if (!admin) {
    $("admin-people").replaceChildren(ownAccount(caller()));
    return;
  }
  await Promise.all([people.show(), providers.show(), settings.show()]);
}
