// One's own account: name, password, browsers, keys for programs, one's data.
import { html, useState } from "/static/vendor/ui.js";
import { patch, post, remove } from "../frame/api.js";
import { Badge, Button, Dialog, Failure, Field, LinkButton, Notice, Page, Table, When, confirmed, toast, useLoad } from "../frame/parts.js";
import { go } from "../frame/router.js";
import { refreshMe } from "../frame/session.js";

export const SCOPES = {
  chat: "Ask questions",
  feedback: "Vote and correct",
  read: "Read chats, runs and figures",
  operate: "Review, train and promote",
  admin: "Manage people",
};
const METHODS = { password: "by password", provider: "with the company account", link: "by a link", visit: "as a demonstration" };
const DAYS = { 30: "30 days", 90: "90 days", 365: "a year", "": "until it is revoked" };

/** Runs `work` on submit; shows what went wrong above the form's fields. */
function Form({ label, busyOn = null, kind = "primary", work, children }) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const onSubmit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try { await work(new FormData(event.target), event.target); } catch (problem) { setError(problem); }
    setBusy(false);
  };
  return html`<form class="stack" onSubmit=${onSubmit}><${Failure} error=${error} />${children}
    <div class="row"><${Button} kind=${kind} type="submit" busy=${busy} ...${busyOn}>${label}</${Button}></div></form>`;
}

function Name({ account, onChanged }) {
  const work = async (given) => {
    await patch("/api/account", { name: given.get("name") });
    await refreshMe();
    toast("Your name was changed.");
    onChanged();
  };
  return html`<section class="card stack"><h2>Name</h2>
    <p>Your role is <strong>${account.role}</strong>${account.sign_in_name ? html`, and you sign in as <strong>${account.sign_in_name}</strong>` : ""}.</p>
    <${Form} label="Change the name" work=${work}><${Field} label="Your name" name="name" autocomplete="name" maxlength="80" required defaultValue=${account.name} /></${Form}></section>`;
}

function Password({ account, onChanged }) {
  const work = async (given, form) => {
    await post("/api/account/password", { password: given.get("password"), new_password: given.get("new_password") });
    form.reset();
    toast("Your password was changed. All your other browsers are signed out.");
    onChanged();
  };
  return html`<section class="card stack"><h2>Password</h2><${Form} label="Change the password" work=${work}>
    <input class="unseen" type="text" name="username" autocomplete="username" value=${account.sign_in_name} readonly tabindex="-1" aria-hidden="true" />
    <${Field} label="Password now" name="password" type="password" autocomplete="current-password" required />
    <${Field} label="New password" name="new_password" type="password" autocomplete="new-password" minlength="15" required hint="15 characters or more: a short sentence is easy to keep in mind." />
  </${Form}></section>`;
}

function Browsers({ account, onChanged }) {
  const [error, setError] = useState(null);
  const act = async (work) => {
    setError(null);
    try { await work(); } catch (problem) { setError(problem); }
  };
  const end = (row) => act(async () => { await remove(`/api/account/sessions/${row.id}`); onChanged(); });
  const everywhere = () => act(async () => {
    await post("/api/account/sign-out-everywhere");
    await refreshMe();
    go("/sign-in");
  });
  const columns = [
    { label: "Browser", header: true, cell: (row) => html`${row.browser} ${row.current && html`<${Badge} kind="good">this one</${Badge}>`}` },
    { label: "Signed in", cell: (row) => html`<${When} at=${row.created_at} /> ${METHODS[row.method] ?? ""}` },
    { label: "Seen", cell: (row) => html`<${When} at=${row.seen_at} />` },
    { label: "", cell: (row) => !row.current && html`<${Button} aria-label=${`Sign out ${row.browser}`} onClick=${() => end(row)}>Sign out</${Button}>` },
  ];
  return html`<section class="card stack"><h2>Where you are signed in</h2><${Failure} error=${error} />
    <${Table} caption="Where you are signed in" columns=${columns} rows=${account.sessions} />
    <div class="row"><${Button} onClick=${everywhere}>Sign out everywhere</${Button}></div></section>`;
}

function NewKey({ account, onClose, onMade }) {
  const work = async (given) => {
    const days = given.get("days");
    onMade(await post("/api/account/keys", { name: given.get("name"), scopes: given.getAll("scope"), days: days ? Number(days) : null }));
  };
  return html`<${Dialog} title="Make a key" onClose=${onClose}><${Form} label="Make the key" work=${work}>
    <${Field} label="What is it for?" name="name" maxlength="80" required hint="So that you know it later, such as: nightly report." />
    <fieldset><legend>What it may do</legend>${account.scopes.map((scope) => html`<${Field} key=${scope} label=${SCOPES[scope] ?? scope} type="checkbox" name="scope" value=${scope} defaultChecked=${scope === "chat"} />`)}</fieldset>
    <${Field} label="It works for" as="select" name="days" defaultValue="90">${Object.entries(DAYS).map(([days, label]) => html`<option value=${days} selected=${days === "90"}>${label}</option>`)}</${Field}>
  </${Form}></${Dialog}>`;
}

function MadeKey({ made, onClose }) {
  const copy = async () => { await navigator.clipboard.writeText(made.key); toast("The key was copied."); };
  return html`<${Dialog} title="Your new key" onClose=${onClose} actions=${html`<${Button} kind="primary" onClick=${onClose}>I have kept it</${Button}>`}>
    <p>This is the only time that the key is shown. Keep it where the program reads it, and nowhere else.</p>
    <p><code class="key">${made.key}</code></p>${navigator.clipboard && html`<${Button} onClick=${copy}>Copy</${Button}>`}</${Dialog}>`;
}

function Keys({ account, onChanged }) {
  const [dialog, setDialog] = useState(null);
  const [error, setError] = useState(null);
  const revoke = async (row) => {
    const text = `Programs that use ${row.name} stop to work at once.`;
    if (!await confirmed({ title: "Revoke this key?", text, yes: "Revoke", danger: true })) return;
    try { await remove(`/api/account/keys/${row.id}`); onChanged(); } catch (problem) { setError(problem); }
  };
  const columns = [
    { label: "Name", header: true, cell: (row) => row.name },
    { label: "Begins with", cell: (row) => html`<code>${row.prefix}</code>` },
    { label: "May", cell: (row) => row.scopes.map((scope) => SCOPES[scope] ?? scope).join(", ") },
    { label: "Used", cell: (row) => html`<${When} at=${row.used_at} />` },
    { label: "Works until", cell: (row) => (row.expires_at ? html`<${When} at=${row.expires_at} />` : "revoked") },
    { label: "", cell: (row) => html`<${Button} aria-label=${`Revoke ${row.name}`} onClick=${() => revoke(row)}>Revoke…</${Button}>` },
  ];
  return html`<section class="card stack"><h2>Keys for programs</h2><p>A program that asks Heed in your name sends a key. It may never do more than you.</p>
    <${Failure} error=${error} />
    <${Table} caption="Your keys" columns=${columns} rows=${account.keys} empty="You have no keys." />
    <div class="row"><${Button} onClick=${() => setDialog("new")}>Make a key…</${Button}></div>
    ${dialog === "new" && html`<${NewKey} account=${account} onClose=${() => setDialog(null)} onMade=${(made) => { setDialog(made); onChanged(); }} />`}
    ${dialog?.key && html`<${MadeKey} made=${dialog} onClose=${() => setDialog(null)} />`}</section>`;
}

function Data({ account }) {
  const [open, setOpen] = useState(false);
  const work = async (given) => {
    await post("/api/account/erase", { password: given.get("password") ?? "" });
    await refreshMe();
    go("/sign-in", { replace: true });
  };
  return html`<section class="card stack"><h2>Your data</h2>
    <p>Everything that Heed keeps of you: chats, answers, votes, corrections, keys without their secrets.</p>
    <div class="row"><${LinkButton} href="/api/account/export" download="heed-my-data.json">Download it</${LinkButton}>
      <${Button} kind="danger" onClick=${() => setOpen(true)}>Erase my account…</${Button}></div>
    ${open && html`<${Dialog} title="Erase your account?" onClose=${() => setOpen(false)}><p>Your name, your sign-in, your keys and your chats go, and nobody can bring them back.</p>
      <p>Your votes stay without your name: answers were already compared by them. Corrections that were accepted stay, too, without your name.</p>
      <${Form} label="Erase everything" kind="danger" work=${work}>${account.has_password && html`<${Field} label="Your password" name="password" type="password" autocomplete="current-password" required />`}</${Form}></${Dialog}>`}</section>`;
}

export default function Account() {
  const { data: account, error, reload } = useLoad("/api/account");
  return html`<${Page} title="Your account"><${Failure} error=${error} onRetry=${reload} />
    ${account && html`<div class="stack">
      ${account.demonstration && html`<${Notice}>This is a demonstration: you were signed in by opening the page, and nobody needs a password.</${Notice}>`}
      <${Name} account=${account} onChanged=${reload} />
      ${account.has_password && html`<${Password} account=${account} onChanged=${reload} />`}
      <${Browsers} account=${account} onChanged=${reload} />
      <${Keys} account=${account} onChanged=${reload} />
      <${Data} account=${account} /></div>`}
  </${Page}>`;
}
