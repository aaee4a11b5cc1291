// The shell: navigation around whichever page the address names.
import { html, render, useEffect, useErrorBoundary, useRef, useState } from "/static/vendor/ui.js";
import { post } from "./api.js";
import { Notices } from "./notices.js";
import { Badge, Button, Confirmation, Empty, Failure, LinkButton, Toasts } from "./parts.js";
import { go, moves, place } from "./router.js";
import { ROUTES } from "./routes.js";
import { may, me, refreshMe, standing, watchMe } from "./session.js";

const GROUPS = ["Ask", "Teach", "Operate", "Administer"];
const THEMES = { system: "As the system", light: "Light", dark: "Dark" };

function Shell() {
  const [open, setOpen] = useState(false);
  useEffect(() => { setOpen(false); }, [place.value.path]);
  useEffect(() => {
    if (standing.value !== "signed-out" || place.value.route?.open) return;
    go(`/sign-in?next=${encodeURIComponent(place.value.path)}`, { replace: true });
  }, [standing.value, place.value]);
  return html`<a class="skip" href="#main">Skip to the page</a>
    <${Top} open=${open} onMenu=${() => setOpen(!open)} />
    <div class="frame">
      ${me.value && html`<${Navigation} open=${open} onClose=${() => setOpen(false)} />`}
      <main id="main" tabindex="-1"><${Standing} /><${Shown} /></main>
    </div><${Toasts} /><${Confirmation} />`;
}

function Top({ open, onMenu }) {
  return html`<header class="top">
    ${me.value && html`<${Button} kind="plain menu" aria-expanded=${String(open)} aria-controls="navigation" onClick=${onMenu}>Menu</${Button}>`}
    <a class="brand" href="/">Heed</a>
    ${me.value && html`<${Badge} kind=${me.value.version === null ? "warn" : ""} title="The policy version that answers now">
      ${me.value.version === null ? "starting" : `version ${me.value.version}`}</${Badge}>`}
    ${me.value && html`<${Notices} />`}
    ${!me.value && html`<${Theme} />`}
  </header>`;
}

function Theme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? "system");
  const choose = (event) => {
    const chosen = event.target.value;
    setTheme(chosen);
    if (chosen === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    try { localStorage.setItem("theme", chosen); } catch { /* it lasts until the page is left */ }
  };
  return html`<select class="theme" aria-label="Colours" value=${theme} onChange=${choose}>
    ${Object.entries(THEMES).map(([name, label]) => html`<option value=${name}>${label}</option>`)}</select>`;
}

function Account() {
  const leave = async () => {
    await post("/api/sign-out");
    await refreshMe();
    go("/sign-in");
  };
  return html`<div class="who"><a href="/account" aria-label=${`Your account, ${me.value.name}`}>${me.value.name}</a>
    ${me.value.demonstration ? html`<${Badge}>demonstration</${Badge}>` : html`<${Button} kind="plain" onClick=${leave}>Sign out</${Button}>`}</div>`;
}

function Navigation({ open, onClose }) {
  const shown = ROUTES.filter(({ group, role }) => group && may(role));
  const groups = GROUPS.filter((group) => shown.some((route) => route.group === group));
  const onKeyDown = (event) => { if (event.key === "Escape") onClose(); };
  return html`<nav id="navigation" class=${open ? "open" : ""} aria-label="Pages" onKeyDown=${onKeyDown}>
    ${groups.map((group) => html`<div key=${group}><h2>${group}</h2><ul>${shown.filter((route) => route.group === group)
    .map(({ path, title }) => html`<li key=${path}><a href=${path} aria-current=${isHere(path) ? "page" : null}>${title}</a></li>`)}</ul></div>`)}
    <div class="foot"><${Account} /><${Theme} /></div>
  </nav>`;
}

function isHere(path) {
  const { path: now } = place.value;
  return path === "/" ? now === "/" || now.startsWith("/chat/") : now === path || now.startsWith(`${path}/`);
}

function Standing() {
  if (standing.value === "unreachable") return html`<p class="notice warn" role="status">The server cannot be reached. Trying again…</p>`;
  if (me.value?.waits_for) return html`<p class="notice" role="status">Please wait a little: ${me.value.waits_for}.</p>`;
  return null;
}

const pages = new Map();

function Shown() {
  const { route, params, query } = place.value;
  const load = route?.load;
  const [loaded, setLoaded] = useState(null);
  const wanted = useRef(null);
  const fetchPage = async () => {
    wanted.current = load;
    if (!load) return;
    let error = null;
    try {
      if (!pages.has(load)) pages.set(load, (await load()).default);
    } catch (broken) {
      console.error(broken);
      error = broken;
    }
    if (wanted.current === load) setLoaded({ load, error });
  };
  useEffect(() => { fetchPage(); }, [load]);
  if (!route) return html`<${Missing} />`;
  if (!route.open && me.value === null) return standing.value === "loading" ? html`<${Empty}>Loading…</${Empty}>` : null;
  if (!route.open && !may(route.role)) return html`<${Refused} role=${route.role} />`;
  if (loaded?.load !== load) return html`<${Empty}>Loading…</${Empty}>`;
  if (loaded.error) return html`<${Failure} error="This page could not be loaded." onRetry=${fetchPage} />`;
  // Every address that is gone to begins its page anew; one that was only renamed does not.
  return html`<${Guarded} key=${moves.value} page=${pages.get(load)} params=${params} query=${query} />`;
}

function Guarded({ page, ...given }) {
  const [error, reset] = useErrorBoundary((broken) => console.error(broken));
  if (error) return html`<${Failure} error="Something on this page went wrong. What you wrote before is kept." onRetry=${reset} />`;
  return html`<${page} ...${given} me=${me.value} />`;
}

function Missing() {
  return html`<div class="page"><h1>There is no such page</h1><p>The address may be old. <a href="/">Go to the chat</a></p></div>`;
}

function Refused({ role }) {
  return html`<div class="page"><h1>Not for your role</h1>
    <p>This page is for ${role}s. Whoever administers Heed here can change your role.</p><${LinkButton} href="/">Go to the chat</${LinkButton}></div>`;
}

watchMe();
render(html`<${Shell} />`, document.getElementById("app"));
