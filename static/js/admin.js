// The Admin tab: settings, and people and providers where the service has them.

import { has } from "./api.js";
import * as people from "./people.js";
import * as settings from "./settings.js";

/** Nothing to prepare: each part draws itself when the tab is opened. */
export function setUp() {}

/** Called whenever the tab is opened. */
export async function show() {
  await settings.show();
  if (has("GET /users")) await people.show();
}
