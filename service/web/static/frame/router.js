// Addresses within the page: links are followed without loading it anew.
import { signal } from "/static/vendor/ui.js";
import { ROUTES } from "./routes.js";

/** The address shown: {path, query (URLSearchParams), route, params}; route is null for none. */
export const place = signal(placeOf(window.location));
/** How many addresses were gone to; 0 is the first, which leaves the focus where it is. */
export const moves = signal(0);

function placeOf({ pathname, search }) {
  for (const route of ROUTES) {
    const params = match(route.path, pathname);
    if (params) return { path: pathname, query: new URLSearchParams(search), route, params };
  }
  return { path: pathname, query: new URLSearchParams(search), route: null, params: {} };
}

function match(pattern, path) {
  const wanted = pattern.split("/");
  const given = path.replace(/(.)\/$/, "$1").split("/");
  if (wanted.length !== given.length) return null;
  const params = {};
  for (const [at, part] of wanted.entries()) {
    if (part.startsWith(":")) params[part.slice(1)] = decoded(given[at]);
    else if (part !== given[at]) return null;
  }
  return Object.values(params).includes(null) ? null : params;
}

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return null; }
}

function arrive() {
  place.value = placeOf(window.location);
  moves.value += 1;
}

/** Show another address; `replace` leaves no way back to this one. */
export function go(path, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", path);
  arrive();
}

/** Change the address shown without going anywhere, as when a new chat gets its id. */
export function renamePlace(path) {
  history.replaceState(null, "", path);
  place.value = { ...placeOf(window.location), renamed: true };
}

function followLink(event) {
  const link = event.target.closest?.("a[href]");
  const plain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
  if (!link || !plain || event.defaultPrevented || link.target || link.hasAttribute("download")) return;
  const url = new URL(link.href, window.location.href);
  if (url.origin !== window.location.origin || !placeOf(url).route) return;
  event.preventDefault();
  if (url.pathname + url.search !== window.location.pathname + window.location.search) go(url.pathname + url.search + url.hash);
  else if (url.hash) document.getElementById(url.hash.slice(1))?.focus();
}

document.addEventListener("click", followLink);
window.addEventListener("popstate", arrive);
