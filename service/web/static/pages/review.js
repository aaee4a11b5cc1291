// What waits for a reviewer, and the verified answers that are in force.
import { html, useEffect, useRef, useState } from "/static/vendor/ui.js";
import { get, post } from "../frame/api.js";
import { Markdown } from "../frame/markdown.js";
import { Badge, Button, Dialog, Empty, Failure, Field, Notice, Page, Progress, Tabs, When, toast } from "../frame/parts.js";

const QUEUES = [
  { id: "corrections", label: "Corrections", empty: "No correction waits. Thank you." },
  { id: "answers", label: "Reported answers", empty: "No reported answer waits." },
  { id: "questions", label: "No source", empty: "No question without a source waits." },
];

/** A queue's items page by page: {items, more, error, retry, drop, reload}. */
function useQueue(queue, words = "") {
  const [state, setState] = useState({ items: null, next: null, error: null, retry: null });
  const current = useRef(0);
  const load = async (after) => {
    const mine = ++current.current;
    const asked = new URLSearchParams({ ...(after && { after }), ...(words && { words }) });
    try {
      const page = await get(`/api/review/${queue}?${asked}`);
      if (mine === current.current) setState((old) => ({ items: after ? [...old.items, ...page.items] : page.items, next: page.next, error: null, retry: null }));
    } catch (error) {
      if (mine === current.current) setState((old) => ({ ...old, error, retry: () => load(after) }));
    }
  };
  useEffect(() => { load(null); }, [queue, words]);
  return {
    ...state,
    more: state.next && (() => load(state.next)),
    drop: (id) => setState((old) => ({ ...old, items: old.items.filter((item) => item.id !== id) })),
    reload: () => load(null),
  };
}

/** The cards of a queue, or why there are none. */
function Cards({ queue, empty, card }) {
  const failure = html`<${Failure} error=${queue.error} onRetry=${queue.retry} />`;
  if (queue.error && !queue.items?.length) return failure;
  if (!queue.items) return html`<${Progress} label="Loading" />`;
  if (!queue.items.length && !queue.more) return html`<${Empty}>${empty}</${Empty}>`;
  return html`<ul class="cards">${queue.items.map((item) => html`<li class="card" key=${item.id}>${card(item)}</li>`)}</ul>
    ${queue.error ? failure : queue.more && html`<p class="row"><${Button} onClick=${queue.more}>Show more</${Button}></p>`}`;
}

function Passages({ passages }) {
  if (!passages.length) return html`<p class="quiet">No source was found for this question.</p>`;
  return html`<details class="passages"><summary>${passages.length === 1 ? "The passage" : `The ${passages.length} passages`} it rested on</summary>
    ${passages.map(({ title, text }) => html`<blockquote><strong>${title}</strong><p>${text}</p></blockquote>`)}</details>`;
}

function Shown({ item }) {
  if (item.answer === null) return null;
  return html`<section class="shown"><h3>What was answered <span class="quiet">by version ${item.version}</span></h3>
    <${Markdown} text=${item.answer} /><${Passages} passages=${item.passages} /></section>`;
}

/** One thing to decide on: the right answer is written here, and the rest is one button. */
function Deciding({ item, queue, onDecided }) {
  const correction = queue === "corrections";
  const [open, setOpen] = useState(correction);
  const [question, setQuestion] = useState(item.question);
  const [answer, setAnswer] = useState(item.proposed ?? "");
  const [refusing, setRefusing] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const act = async (path, body, said) => {
    setBusy(true);
    setError(null);
    try {
      await post(`/api/review/${queue}/${item.id}/${path}`, body);
      toast(said);
      onDecided(item);
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  const accept = (event) => {
    event.preventDefault();
    act(correction ? "accept" : "answer", { question, answer }, "The answer is shown from now on.");
  };
  const other = correction
    ? html`<${Button} onClick=${() => setRefusing(true)} disabled=${busy}>Reject…</${Button}>`
    : html`<${Button} onClick=${() => act("settle", {}, "Taken off the queue.")} busy=${busy}>Nothing to do</${Button}>`;
  return html`<h2>${item.question}</h2>
    <p class="row quiet"><${When} at=${item.created_at} />${item.by && html`<span>proposed by ${item.by}</span>`}
      ${item.reason && html`<${Badge} kind="warn">${item.reason}</${Badge}>`}</p>
    ${item.comment && html`<p class="comment">“${item.comment}”</p>`}
    <${Shown} item=${item} />
    ${open ? html`<form onSubmit=${accept}>
      <${Field} label="Question, in full" value=${question} required maxlength="2000" hint="Whoever asks this, in these words, is shown the answer."
        onInput=${(event) => setQuestion(event.target.value)} />
      <${Field} label="Right answer" as="textarea" rows="4" value=${answer} required maxlength="8000"
        onInput=${(event) => setAnswer(event.target.value)} />
      <${Failure} error=${error} />
      <div class="row"><${Button} kind="primary" type="submit" busy=${busy}>${correction ? "Accept" : "Show this answer"}</${Button}>${other}</div>
    </form>` : html`<${Failure} error=${error} />
      <div class="row"><${Button} kind="primary" onClick=${() => setOpen(true)}>Write the right answer</${Button}>${other}</div>`}
    ${refusing && html`<${WithReason} title="Reject this correction" label="Why? Whoever proposed it reads this." yes="Reject" busy=${busy} error=${error}
      onClose=${() => setRefusing(false)} onYes=${(reason) => act("reject", { reason }, "Rejected, and told to whoever proposed it.")} />`}`;
}

/** A dialog that asks for a reason. */
function WithReason({ title, label, yes, busy, error, onClose, onYes }) {
  const [reason, setReason] = useState("");
  const send = (event) => { event.preventDefault(); onYes(reason); };
  return html`<${Dialog} title=${title} onClose=${onClose}><form onSubmit=${send}>
    <${Field} label=${label} as="textarea" rows="3" value=${reason} required maxlength="1000" onInput=${(event) => setReason(event.target.value)} />
    <${Failure} error=${error} />
    <div class="row end"><${Button} onClick=${onClose}>Cancel</${Button}><${Button} kind="danger" type="submit" busy=${busy}>${yes}</${Button}></div>
  </form></${Dialog}>`;
}

function Queue({ queue, empty, onDecided }) {
  const listed = useQueue(queue);
  const decided = (item) => { listed.drop(item.id); onDecided(); };
  return html`<${Cards} queue=${listed} empty=${empty} card=${(item) => html`<${Deciding} item=${item} queue=${queue} onDecided=${decided} />`} />`;
}

function VerifiedCard({ item, onChanged }) {
  const [asking, setAsking] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const act = async (path, body, said) => {
    setBusy(true);
    setError(null);
    try {
      await post(`/api/review/verified/${item.id}/${path}`, body);
      toast(said);
      onChanged(item, path);
    } catch (problem) {
      setError(problem);
    }
    setBusy(false);
  };
  return html`<h2>${item.question}</h2>
    <p class="row quiet"><${Badge} kind="good">Verified by ${item.by}</${Badge}><${When} at=${item.created_at} />
      <span>shown ${item.shown === 1 ? "once" : `${item.shown} times`}</span></p>
    <${Markdown} text=${item.answer} />
    ${item.stale && html`<${Notice} kind="warn">A source of this answer has changed, so it is not shown. Check it, then show it again or withdraw it.</${Notice}>`}
    ${!asking && html`<${Failure} error=${error} />`}
    <div class="row">
      ${item.stale && html`<${Button} kind="primary" busy=${busy} onClick=${() => act("confirm", {}, "The answer is shown again.")}>It still holds</${Button}>`}
      <${Button} onClick=${() => setAsking(true)}>Withdraw…</${Button}></div>
    ${asking && html`<${WithReason} title="Withdraw this answer" label="Why?" yes="Withdraw" busy=${busy} error=${error} onClose=${() => setAsking(false)}
      onYes=${(reason) => act("withdraw", { reason }, "The answer is no longer shown, nor trained on.")} />`}`;
}

function Verified() {
  const [typed, setTyped] = useState("");
  const [words, setWords] = useState("");
  useEffect(() => { const soon = setTimeout(() => setWords(typed.trim()), 250); return () => clearTimeout(soon); }, [typed]);
  const listed = useQueue("verified", words);
  const changed = (item, how) => (how === "withdraw" ? listed.drop(item.id) : listed.reload());
  return html`<${Field} label="Find" type="search" value=${typed} onInput=${(event) => setTyped(event.target.value)} />
    <${Cards} queue=${listed} empty=${words ? "No verified answer holds these words." : "There is no verified answer yet."}
      card=${(item) => html`<${VerifiedCard} item=${item} onChanged=${changed} />`} />`;
}

export default function Review() {
  const [waiting, setWaiting] = useState(null);
  const count = async () => { try { setWaiting(await get("/api/review")); } catch { setWaiting(null); } };
  useEffect(() => { count(); }, []);
  const told = (id) => {
    const number = waiting?.[id] ?? 0;
    return number >= (waiting?.most ?? Infinity) ? ` (${number} or more)` : number ? ` (${number})` : "";
  };
  const tabs = QUEUES.map(({ id, label, empty }) => ({
    id, label: label + told(id), content: () => html`<${Queue} key=${id} queue=${id} empty=${empty} onDecided=${count} />`,
  }));
  tabs.push({ id: "verified", label: "Verified answers", content: () => html`<${Verified} key="verified" />` });
  return html`<${Page} title="Review">
    <p class="quiet">You see the question, the answer and its passages. The rest of a conversation stays with its person.</p>
    <${Tabs} label="Queues" tabs=${tabs} />
  </${Page}>`;
}
