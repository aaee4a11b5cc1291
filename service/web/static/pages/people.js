// People, for admins: who there is and what they may do, invitations, everybody's keys, the record.
import { html, useEffect, useState } from "/static/vendor/ui.js";
import { get, patch, post, remove } from "../frame/api.js";
import { Badge, Button, Dialog, Failure, Field, Page, Table, Tabs, When, confirmed, toast, useLoad } from "../frame/parts.js";
import { SCOPES } from "./account.js";

const ROLES = { employee: "Employee: asks and votes", reviewer: "Reviewer: also reviews feedback", operator: "Operator: also trains and promotes", admin: "Admin: also manages people" };
const KINDS = { "": "Everything", "sign_in.": "Signing in", "person.": "People", "key.": "Keys", "policy.": "Policies", "run.": "Training", "export.": "Exports", "source.": "Sources", "plugin.": "Plugins" };

/** A list that grows: its first page, and `more` while there is another. */
function useList(path, name, cursor) {
  const { data, error, reload } = useLoad(path);
  const [older, setOlder] = useState({ rows: [], next: null });
  useEffect(() => { setOlder({ rows: [], next: null }); }, [data]);
  const next = older.rows.length ? older.next : data?.next ?? null;
  const more = async () => {
    const page = await get(`${path}${path.includes("?") ? "&" : "?"}${cursor}=${encodeURIComponent(next)}`);
    setOlder((old) => ({ rows: [...old.rows, ...page[name]], next: page.next }));
  };
  return { rows: data ? [...data[name], ...older.rows] : null, error, reload, more: next ? more : null };
}

function Listed({ list, ...table }) {
  return html`<${Failure} error=${list.error} onRetry=${list.reload} />
    ${list.rows && html`<${Table} rows=${list.rows} ...${table} />`}
    ${list.more && html`<div class="row"><${Button} onClick=${list.more}>Show more</${Button}></div>`}`;
}

function Link({ made, title, onClose }) {
  const copy = async () => { await navigator.clipboard.writeText(made.link); toast("The link was copied."); };
  return html`<${Dialog} title=${title} onClose=${onClose} actions=${html`<${Button} kind="primary" onClick=${onClose}>Done</${Button}>`}>
    <p>Hand this link over yourself. It works once, for ${made.hours >= 48 ? `${made.hours / 24} days` : `${made.hours} hours`}, and is shown only now.</p>
    <p><code class="key">${made.link}</code></p>${navigator.clipboard && html`<${Button} onClick=${copy}>Copy</${Button}>`}</${Dialog}>`;
}

function PersonDialog({ person, isMe, onClose, onChanged }) {
  const [error, setError] = useState(null);
  const [made, setMade] = useState(null);
  const [typed, setTyped] = useState(person.groups.join(", "));
  const path = `/api/people/${person.id}`;
  const act = (work, said) => async () => {
    setError(null);
    try {
      const answer = await work();
      if (said) toast(said);
      onChanged(answer);
      return answer;
    } catch (problem) {
      setError(problem);
      return null;
    }
  };
  const setGroups = async (event) => {
    event.preventDefault();
    const groups = typed.split(",").map((name) => name.trim()).filter(Boolean);
    await act(() => patch(path, { groups }), `${person.name} reads the documents of ${groups.length ? groups.join(", ") : "everybody"} from the next question on.`)();
  };
  const setRole = (event) => { const role = event.target.value; act(() => patch(path, { role }), `${person.name} is ${role} now.`)(); };
  const disable = act(async () => { await patch(path, { disabled: !person.disabled }); onClose(); }, person.disabled ? `${person.name} may sign in again.` : `${person.name} is signed out and may not come back.`);
  const reset = async () => {
    setError(null);
    try { setMade(await post(`${path}/reset`)); } catch (problem) { setError(problem); }
  };
  const erase = async () => {
    const text = `The name, sign-in, keys and chats of ${person.name} go for good. Votes stay without a name.`;
    if (await confirmed({ title: `Erase ${person.name}?`, text, yes: "Erase", danger: true })) await act(async () => { await post(`${path}/erase`); onClose(); }, "Erased.")();
  };
  if (made) return html`<${Link} made=${made} title=${`A new password for ${person.name}`} onClose=${onClose} />`;
  return html`<${Dialog} title=${person.name} onClose=${onClose}><div class="stack"><${Failure} error=${error} />
    <${Field} label="Role" as="select" value=${person.role} onChange=${setRole} hint=${person.company ? "Where groups of the company account give roles, this lasts until the next sign-in." : null}>
      ${Object.entries(ROLES).map(([role, label]) => html`<option value=${role} selected=${role === person.role}>${label}</option>`)}</${Field}>
    <form class="stack" onSubmit=${setGroups}>
      <${Field} label="Groups" value=${typed} onInput=${(event) => setTyped(event.target.value)} hint="Names with commas between them. A group reads the documents that name it as reader, besides those for everybody." />
      <div class="row"><${Button} type="submit">Save groups</${Button}></div></form>
    <div class="row">
      ${person.sign_in_name && html`<${Button} onClick=${reset}>New password…</${Button}>`}
      <${Button} onClick=${disable}>${person.disabled ? "Let in again" : "Keep out"}</${Button}>
      ${!isMe && html`<${Button} kind="danger" onClick=${erase}>Erase…</${Button}>`}</div></div></${Dialog}>`;
}

function People({ me }) {
  const [search, setSearch] = useState("");
  const [chosen, setChosen] = useState(null);
  const [inviting, setInviting] = useState(false);
  const list = useList(`/api/people${search ? `?search=${encodeURIComponent(search)}` : ""}`, "people", "after");
  const columns = [
    { label: "Name", header: true, cell: (row) => html`${row.name} ${row.disabled && html`<${Badge} kind="bad">kept out</${Badge}>`} ${row.id === me.id && html`<${Badge}>you</${Badge}>`}` },
    { label: "Signs in as", cell: (row) => row.sign_in_name ?? row.email ?? "company account" },
    { label: "Role", cell: (row) => row.role },
    { label: "Groups", cell: (row) => row.groups.join(", ") },
    { label: "Since", cell: (row) => html`<${When} at=${row.created_at} />` },
    { label: "", cell: (row) => html`<${Button} aria-label=${`Change ${row.name}`} onClick=${() => setChosen(row)}>Change…</${Button}>` },
  ];
  const changed = (row) => { if (row) setChosen(row); list.reload(); };
  return html`<div class="stack"><div class="row"><${Field} label="Find" type="search" value=${search} onInput=${(event) => setSearch(event.target.value)} />
      <${Button} kind="primary" onClick=${() => setInviting(true)}>Invite…</${Button}></div>
    <${Listed} list=${list} caption="People" columns=${columns} empty=${search ? "Nobody has such a name." : "Nobody has an account yet."} />
    ${chosen && html`<${PersonDialog} person=${chosen} isMe=${chosen.id === me.id} onClose=${() => setChosen(null)} onChanged=${changed} />`}
    ${inviting && html`<${Invite} onClose=${() => setInviting(false)} />`}</div>`;
}

function Invite({ onClose }) {
  const [made, setMade] = useState(null);
  const [error, setError] = useState(null);
  const onSubmit = async (event) => {
    event.preventDefault();
    const given = new FormData(event.target);
    try { setMade(await post("/api/invitations", { role: given.get("role"), name: given.get("name") || null })); } catch (problem) { setError(problem); }
  };
  if (made) return html`<${Link} made=${made} title="The invitation" onClose=${onClose} />`;
  return html`<${Dialog} title="Invite somebody" onClose=${onClose}><form class="stack" onSubmit=${onSubmit}><${Failure} error=${error} />
    <${Field} label="Their name" name="name" maxlength="80" hint="They can change it." />
    <${Field} label="Role" as="select" name="role">${Object.entries(ROLES).map(([role, label]) => html`<option value=${role}>${label}</option>`)}</${Field}>
    <div class="row"><${Button} kind="primary" type="submit">Make the link</${Button}></div></form></${Dialog}>`;
}

function Invitations() {
  const { data, error, reload } = useLoad("/api/invitations");
  const [failed, setFailed] = useState(null);
  const withdraw = async (row) => {
    try { await remove(`/api/invitations/${row.id}`); toast("The invitation was withdrawn."); reload(); } catch (problem) { setFailed(problem); }
  };
  const columns = [
    { label: "For", header: true, cell: (row) => row.name ?? "anybody with the link" },
    { label: "Role", cell: (row) => row.role },
    { label: "Made", cell: (row) => html`<${When} at=${row.created_at} />` },
    { label: "Works until", cell: (row) => html`<${When} at=${row.expires_at} />` },
    { label: "", cell: (row) => html`<${Button} aria-label=${`Withdraw the invitation for ${row.name ?? "anybody"}`} onClick=${() => withdraw(row)}>Withdraw</${Button}>` },
  ];
  return html`<${Failure} error=${error ?? failed} onRetry=${error ? reload : null} />${data && html`<${Table} caption="Invitations" columns=${columns} rows=${data} empty="No invitation waits to be used." />`}`;
}

function Keys() {
  const list = useList("/api/keys", "keys", "before");
  const [failed, setFailed] = useState(null);
  const revoke = async (row) => {
    const text = `Programs that use ${row.name} of ${row.owner} stop to work at once.`;
    if (!await confirmed({ title: "Revoke this key?", text, yes: "Revoke", danger: true })) return;
    try { await remove(`/api/keys/${row.id}`); list.reload(); } catch (problem) { setFailed(problem); }
  };
  const columns = [
    { label: "Owner", header: true, cell: (row) => row.owner },
    { label: "Name", cell: (row) => row.name },
    { label: "Begins with", cell: (row) => html`<code>${row.prefix}</code>` },
    { label: "May", cell: (row) => row.scopes.map((scope) => SCOPES[scope] ?? scope).join(", ") },
    { label: "Used", cell: (row) => html`<${When} at=${row.used_at} />` },
    { label: "", cell: (row) => html`<${Button} aria-label=${`Revoke ${row.name} of ${row.owner}`} onClick=${() => revoke(row)}>Revoke…</${Button}>` },
  ];
  return html`<${Failure} error=${failed} /><${Listed} list=${list} caption="Everybody's keys" columns=${columns} empty="Nobody has a key." />`;
}

const shown = (details) => Object.entries(details).map(([name, value]) => `${name.replaceAll("_", " ")}: ${Array.isArray(value) ? value.join(", ") : value}`).join("; ");

function RecordOf() {
  const [action, setAction] = useState("");
  const list = useList(`/api/audit${action ? `?action=${encodeURIComponent(action)}` : ""}`, "entries", "before");
  const columns = [
    { label: "When", header: true, cell: (row) => html`<${When} at=${row.created_at} />` },
    { label: "Who", cell: (row) => row.by },
    { label: "What", cell: (row) => row.action.replace(".", ": ").replaceAll("_", " ") },
    { label: "Which", cell: (row) => row.target && html`<code>${row.target}</code>` },
    { label: "Details", cell: (row) => shown(row.details) },
  ];
  return html`<div class="stack"><${Field} label="Show" as="select" value=${action} onChange=${(event) => setAction(event.target.value)}>
      ${Object.entries(KINDS).map(([kind, label]) => html`<option value=${kind}>${label}</option>`)}</${Field}>
    <${Listed} list=${list} caption="Who did what" columns=${columns} empty="Nothing was done yet." /></div>`;
}

export default function PeoplePage({ me }) {
  const tabs = [
    { id: "people", label: "People", content: () => html`<${People} me=${me} />` },
    { id: "invitations", label: "Invitations", content: () => html`<${Invitations} />` },
    { id: "keys", label: "Keys", content: () => html`<${Keys} />` },
    { id: "record", label: "Who did what", content: () => html`<${RecordOf} />` },
  ];
  return html`<${Page} title="People" wide><${Tabs} label="People" tabs=${tabs} /></${Page}>`;
}
