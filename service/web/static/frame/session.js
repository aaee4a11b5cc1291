// Who looks at the page, and whether the service answers: read at first, then now and then.
import { signal } from "/static/vendor/ui.js";
import { get } from "./api.js";

const ROLES = ["employee", "reviewer", "operator", "admin"];
const WHILE_STARTING_MS = 2000;
const ALWAYS_MS = 15000;

/** What GET /api/me says; null until it is known, and where nobody is signed in. */
export const me = signal(null);
/** "loading", "signed-in", "signed-out" or "unreachable". */
export const standing = signal("loading");

/** Whether the one who looks may do what `role` may. */
export function may(role) {
  return me.value !== null && ROLES.indexOf(me.value.role) >= ROLES.indexOf(role);
}

/** Read anew who looks; also after signing in or out. */
export async function refreshMe() {
  try {
    me.value = await get("/api/me");
    standing.value = "signed-in";
  } catch (error) {
    if (error.status === 401) me.value = null;
    standing.value = error.status === 401 ? "signed-out" : "unreachable";
  }
}

export async function watchMe() {
  await refreshMe();
  const starting = standing.value === "unreachable" || Boolean(me.value?.waits_for);
  setTimeout(watchMe, starting ? WHILE_STARTING_MS : ALWAYS_MS);
}
