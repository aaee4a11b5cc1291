// The chat: one's conversations beside the one that is open, and where the next question is written.
import { html, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "/static/vendor/ui.js";
import { remove } from "/static/frame/api.js";
import { Button, Failure } from "/static/frame/parts.js";
import { go, renamePlace } from "/static/frame/router.js";
import { Composer } from "./chat/composer.js";
import { PassageDrawer } from "./chat/drawer.js";
import { History } from "./chat/history.js";
import { Shortcuts, actionOf } from "./chat/shortcuts.js";
import { Talk, siblingsOf } from "./chat/talk.js";
import { Turn } from "./chat/turn.js";

const DRAFT = "heed-draft";
const TEMPORARY = "heed-temporary";
const NEAR_END = 160;
const AFTER_END_MS = 500;

/** Another tab of the same person tells when it asked; `onTold(id)` is called for every change. */
function useOtherTabs(onTold) {
  const channel = useMemo(() => (window.BroadcastChannel ? new BroadcastChannel("heed-chat") : null), []);
  useEffect(() => {
    if (!channel) return undefined;
    channel.onmessage = ({ data }) => onTold(data);
    return () => channel.close();
  }, [channel]);
  return (id) => channel?.postMessage(id);
}

function stored(name) {
  try { return sessionStorage.getItem(name); } catch { return null; }
}

function store(name, value) {
  try {
    if (value) sessionStorage.setItem(name, value);
    else sessionStorage.removeItem(name);
  } catch { /* it lasts until the page is left */ }
}

export default function Chat({ params, query, me }) {
  const [version, setVersion] = useState(0);
  const changed = useRef(() => {});
  const talk = useMemo(() => new Talk(() => changed.current()), []);
  const tell = useOtherTabs((id) => {
    setVersion((old) => old + 1);
    if (id && id === talk.id.peek()) talk.refresh();
  });
  changed.current = () => {
    const id = talk.id.peek();
    if (id && talk.temporary.peek()) store(TEMPORARY, id);
    else if (id && params.id !== id && window.location.pathname !== `/chat/${id}`) renamePlace(`/chat/${id}`);
    setVersion((old) => old + 1);
    if (id && !talk.temporary.peek()) tell(id);
  };
  const [text, setText] = useState(stored(DRAFT) ?? "");
  const [two, setTwo] = useState(false);
  const [list, setList] = useState(false);
  const [help, setHelp] = useState(false);
  const [source, setSource] = useState(null);
  const box = useRef(null);
  const search = useRef(null);
  const opener = useRef(null);

  const open = async () => {
    const id = params.id ?? stored(TEMPORARY);
    if (!id) return;
    await talk.open(id, query.get("turn"));
    if (!params.id && talk.error.peek()?.status === 404) forget();
  };
  useEffect(() => {
    open();
    box.current?.focus({ preventScroll: true });
    return () => talk.left.abort();
  }, []);
  useEffect(() => { document.title = `${talk.title.value || "Chat"} · Heed`; }, [talk.title.value]);
  useEffect(() => { store(DRAFT, text); }, [text]);

  const forget = () => { store(TEMPORARY, null); talk.close(); };
  const leaveTemporary = () => {
    const id = talk.id.peek();
    if (talk.temporary.peek() && id) remove(`/api/conversations/${id}`).catch(() => {});
    store(TEMPORARY, null);
  };
  const begin = () => {
    leaveTemporary();
    talk.close();
    setList(false);
    setSource(null);
    if (window.location.pathname === "/") box.current?.focus();
    else go("/");
  };
  const openRow = (event) => {
    leaveTemporary();
    setList(false);
  };
  const gone = (id) => { if (id === talk.id.peek()) begin(); else tell(id); };
  const cite = useCallback((passage, number) => {
    opener.current = document.activeElement;
    setSource({ passage, number });
  }, []);
  const closeSource = () => { setSource(null); opener.current?.focus?.(); };
  const send = (question) => {
    setText("");
    talk.error.value = null;
    talk.ask(question, { two: two && !talk.temporary.peek() });
  };
  const branch = talk.branch.value;
  const last = branch.at(-1);
  useShortcuts({
    new: begin,
    search: () => { setList(true); setTimeout(() => search.current?.focus()); },
    write: () => box.current?.focus(),
    help: () => setHelp(true),
    escape: () => {
      if (list) setList(false);
      else if (source) closeSource();
      else talk.stop();
    },
    regenerate: () => { if (last && !talk.busy.peek()) talk.ask(last.question, { instead: last, two: last.compared }); },
    edit: () => { if (last && !talk.busy.peek()) talk.editing.value = last.id; },
    earlier: () => step(talk, -1),
    later: () => step(talk, 1),
  });
  return html`<div class=${source ? "chat with-drawer" : "chat"}>
    <${History} current=${talk.id.value} version=${version} open=${list} searchRef=${search} onOpen=${openRow} onNew=${begin}
      onGone=${gone} onRenamed=${(id, title) => { if (id === talk.id.peek()) talk.title.value = title; }} onClose=${() => setList(false)} />
    <div class="talk">
      <div class="row talk-head">
        <${Button} kind="chats-open" aria-expanded=${String(list)} aria-controls="chats" onClick=${() => setList(!list)}>Chats</${Button}>
        <h1 tabindex="-1" class=${branch.length ? "" : "unseen"}>${talk.title.value || "Chat"}</h1></div>
      ${talk.temporary.value && html`<p class="notice temporary-note">Temporary chat: nothing of it is stored or trained on. It is forgotten when you begin another chat, half an hour after your last question, or when the server restarts.</p>`}
      <${Failure} error=${talk.error.value} onRetry=${talk.opening.value ? open : null} />
      <${Turns} talk=${talk} branch=${branch} onCite=${cite} />
      <p class="unseen" role="status" aria-live="polite">${talk.spoken.value}</p>
      <${Composer} text=${text} setText=${setText} two=${two} setTwo=${setTwo} busy=${talk.asking.value !== null} ready=${me.waits_for === null && !talk.opening.value}
        temporary=${talk.temporary.value} mayBeTemporary=${!branch.length && !talk.opening.value} setTemporary=${(on) => { talk.temporary.value = on; }}
        onSend=${send} onStop=${() => talk.stop()} inputRef=${box} onHelp=${() => setHelp(true)} />
    </div>
    ${source && html`<${PassageDrawer} key=${source.passage.id} ...${source} onClose=${closeSource} />`}
    ${help && html`<${Shortcuts} onClose=${() => setHelp(false)} />`}
  </div>`;
}

function useShortcuts(actions) {
  const latest = useRef(actions);
  latest.current = actions;
  useEffect(() => {
    const listen = (event) => {
      const action = actionOf(event);
      if (!action) return;
      if (action !== "escape") event.preventDefault();
      latest.current[action]();
    };
    document.addEventListener("keydown", listen);
    return () => document.removeEventListener("keydown", listen);
  }, []);
}

function step(talk, by) {
  for (const turn of [...talk.branch.peek()].reverse()) {
    const siblings = siblingsOf(talk.turns.peek(), turn);
    const next = siblings[siblings.indexOf(turn) + by];
    if (siblings.length > 1) {
      if (next) talk.showBranch(next);
      return;
    }
  }
}

// Stays at the end while an answer grows, unless whoever reads has scrolled away from it.
function Turns({ talk, branch, onCite }) {
  const box = useRef(null);
  const following = useRef(true);
  const lastAsking = useRef(-Infinity);
  useEffect(() => {
    const watch = () => {
      const page = document.documentElement;
      following.current = page.scrollHeight - window.scrollY - window.innerHeight < NEAR_END;
    };
    window.addEventListener("scroll", watch, { passive: true });
    const grown = new ResizeObserver(() => {
      if (talk.asking.peek()) lastAsking.current = performance.now();
      // What comes with an answer's end, such as the vote, is part of it.
      if (following.current && performance.now() - lastAsking.current < AFTER_END_MS) window.scrollTo(0, document.documentElement.scrollHeight);
    });
    grown.observe(box.current);
    return () => { window.removeEventListener("scroll", watch); grown.disconnect(); };
  }, []);
  useLayoutEffect(() => {
    following.current = true;
    window.scrollTo(0, document.documentElement.scrollHeight);
  }, [branch.length, branch.at(-1)?.id]);
  return html`<div class="turns" ref=${box}>
    ${!branch.length && html`<div class="welcome"><h2>What would you like to know?</h2>
      <p>Answers come from the company's documents. Now and then you see two answers: say which is better, and the next ones will be.</p></div>`}
    ${branch.map((turn, at) => html`<${Turn} key=${turn.key} talk=${talk} turn=${turn} last=${at === branch.length - 1} onCite=${onCite} />`)}
  </div>`;
}
