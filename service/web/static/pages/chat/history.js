// The list of one's conversations: search, open, rename, pin, delete; a drawer on a phone.
import { html, useEffect, useRef, useState } from "/static/vendor/ui.js";
import { get, patch, remove } from "/static/frame/api.js";
import { Badge, Button, confirmed, Empty, Failure, toast } from "/static/frame/parts.js";

const TYPED_MS = 200;

/** What the list holds: {rows, next, error, more(), reload()}; read anew when `version` changes. */
function useConversations(search, version) {
  const [state, setState] = useState({ rows: null, next: null, error: null });
  const newest = useRef(0);
  const read = async (after) => {
    const mine = ++newest.current;
    const query = new URLSearchParams({ ...(search && { search }), ...(after && { after }) });
    try {
      const page = await get(`/api/conversations?${query}`);
      if (mine !== newest.current) return;
      setState((old) => {
        const before = after ? old.rows ?? [] : [];
        const known = new Set(before.map(({ id }) => id));
        return { rows: [...before, ...page.conversations.filter(({ id }) => !known.has(id))], next: page.next, error: null };
      });
    } catch (error) {
      if (mine === newest.current) setState((old) => ({ ...old, error }));
    }
  };
  useEffect(() => {
    const timer = setTimeout(() => read(null), search ? TYPED_MS : 0);
    return () => clearTimeout(timer);
  }, [search, version]);
  return { ...state, more: () => read(state.next), reload: () => read(null) };
}

export function History({ current, version, open, searchRef, onOpen, onNew, onGone, onRenamed, onClose }) {
  const [search, setSearch] = useState("");
  const { rows, next, error, more, reload } = useConversations(search.trim(), version);
  const onKeyDown = (event) => { if (event.key === "Escape" && open) onClose(); };
  return html`<aside id="chats" class=${open ? "chats open" : "chats"} aria-label="Your chats" onKeyDown=${onKeyDown}>
    <div class="row chats-head"><h2>Your chats</h2>
      <${Button} kind="primary" onClick=${onNew}>New chat</${Button}>
      <${Button} kind="plain chats-close" aria-label="Close the list of chats" onClick=${onClose}>✕</${Button}></div>
    <label class="unseen" for="chats-search">Search your chats</label>
    <input id="chats-search" ref=${searchRef} type="search" placeholder="Search your chats" maxlength="200" value=${search}
      onInput=${(event) => setSearch(event.target.value)} />
    <${Failure} error=${error} onRetry=${reload} />
    <p class="unseen" role="status">${search && rows ? `${rows.length}${next ? " or more" : ""} found` : ""}</p>
    ${rows && !rows.length && html`<${Empty}>${search ? "No chat holds these words." : "Nothing asked yet."}</${Empty}>`}
    ${rows?.length > 0 && html`<ul>${rows.map((row) => html`<${Entry} key=${row.id} row=${row} current=${row.id === current}
      onOpen=${onOpen} onChanged=${reload} onGone=${onGone} onRenamed=${onRenamed} />`)}</ul>`}
    ${next && html`<${Button} onClick=${more}>Show more</${Button}>`}
  </aside>`;
}

function Entry({ row, current, onOpen, onChanged, onGone, onRenamed }) {
  const [renaming, setRenaming] = useState(false);
  const actions = useRef(null);
  const act = async (work) => {
    actions.current?.removeAttribute("open");
    try {
      await work();
      onChanged();
    } catch (error) {
      toast(error.message);
    }
  };
  const path = `/api/conversations/${row.id}`;
  const rename = (title) => act(async () => { await patch(path, { title }); onRenamed(row.id, title); setRenaming(false); });
  const erase = async () => {
    const sure = await confirmed({
      title: "Delete this chat?", yes: "Delete", danger: true,
      text: `“${row.title}” goes for good and is not trained on. This cannot be undone.`,
    });
    if (sure) await act(async () => { await remove(path); onGone(row.id); });
  };
  if (renaming) return html`<li><${Rename} title=${row.title} onRename=${rename} onCancel=${() => setRenaming(false)} /></li>`;
  const at = row.found_turn_id ? `?turn=${row.found_turn_id}` : "";
  return html`<li class="chat-entry">
    <a href=${`/chat/${row.id}${at}`} aria-current=${current ? "page" : null} onClick=${(event) => onOpen(event, row)}>
      <span class="chat-title">${row.title}</span>
      ${row.found && row.found !== row.title && html`<span class="found">${row.found}</span>`}</a>
    ${row.pinned && html`<${Badge}>pinned</${Badge}>`}
    ${row.simulated && html`<${Badge}>simulated</${Badge}>`}
    <details class="more" ref=${actions}><summary aria-label=${`Rename, pin or delete: ${row.title}`}>⋯</summary>
      <div class="more-actions"><${Button} kind="plain" onClick=${() => setRenaming(true)}>Rename</${Button}>
        <${Button} kind="plain" onClick=${() => act(() => patch(path, { pinned: !row.pinned }))}>${row.pinned ? "Unpin" : "Pin"}</${Button}>
        <${Button} kind="plain" onClick=${erase}>Delete</${Button}></div></details>
  </li>`;
}

function Rename({ title, onRename, onCancel }) {
  const [text, setText] = useState(title);
  const input = useRef(null);
  useEffect(() => { input.current.select(); input.current.focus(); }, []);
  const submit = (event) => { event.preventDefault(); if (text.trim()) onRename(text.trim()); };
  const onKeyDown = (event) => { if (event.key === "Escape") { event.stopPropagation(); onCancel(); } };
  return html`<form class="rename" onSubmit=${submit} onKeyDown=${onKeyDown}>
    <input ref=${input} aria-label="The chat's name" maxlength="80" required value=${text} onInput=${(event) => setText(event.target.value)} />
    <div class="row"><button class="button primary" type="submit">Save</button><${Button} onClick=${onCancel}>Cancel</${Button}></div></form>`;
}
