// Everything somebody said about answers: seen, changed, taken back, and what came of it.
import { html, useEffect, useState } from "/static/vendor/ui.js";
import { get, put, remove } from "../frame/api.js";
import { CHOICES } from "../frame/comparison.js";
import { Badge, Button, Dialog, Empty, Failure, Field, Page, When, confirmed, toast, useLoad } from "../frame/parts.js";

const KINDS = { "": "Everything", comparison: "Comparisons", thumb: "Thumbs", correction: "Corrected answers" };
const SAID = { ...CHOICES, up: "Thumb up", down: "Thumb down", correction: "Corrected answer" };
const BY_HOW_MUCH = { much: ", by much", slightly: ", slightly" };
const pathOf = (item) => `/api/my/feedback/${item.kind}s/${item.id}`;

function Effects() {
  const { data, error, reload } = useLoad("/api/my/effects");
  return html`<section aria-labelledby="effects-head"><h2 id="effects-head">What came of it</h2>
    <${Failure} error=${error} onRetry=${reload} />
    ${data && !data.length && html`<${Empty}>Nothing yet: the next training learns from what you said.</${Empty}>`}
    <ul class="cards">${data?.map((effect) => html`<li class="card" key=${effect.run_id}><p>${effect.sentence}</p>
      <p class="quiet"><${When} at=${effect.finished_at} /></p></li>`)}</ul>
  </section>`;
}

/** Fields for what can be said of an item anew; `state` is the body that is sent. */
function Fields({ item, state, setState }) {
  const set = (name) => (event) => setState({ ...state, [name]: event.target.value });
  if (item.kind === "correction") {
    return html`<${Field} label="The right answer" as="textarea" rows="5" maxlength="8000" value=${state.answer} onInput=${set("answer")} />`;
  }
  if (item.kind === "thumb") {
    return html`<${Field} label="Your thumb" as="select" value=${String(state.value)} onChange=${(event) => setState({ ...state, value: Number(event.target.value) })}>
        <option value="1">Up</option><option value="-1">Down</option></${Field}>
      <${Field} label="Comment (optional)" as="textarea" rows="3" maxlength="4000" value=${state.comment ?? ""} onInput=${set("comment")} />`;
  }
  const strong = state.choice === "A" || state.choice === "B";
  return html`<${Field} label="Your choice" as="select" value=${state.choice} onChange=${(event) => setState({ ...state, choice: event.target.value, strength: null })}>
      ${["A", "B", "tie", "both_bad", "skip"].map((choice) => html`<option key=${choice} value=${choice}>${CHOICES[choice]}</option>`)}</${Field}>
    ${strong && html`<${Field} label="By how much (optional)" as="select" value=${state.strength ?? ""} onChange=${(event) => setState({ ...state, strength: event.target.value || null })}>
      <option value="">I do not say</option><option value="much">Much</option><option value="slightly">Slightly</option></${Field}>`}
    <${Field} label="Reason (optional)" as="textarea" rows="2" maxlength="500" value=${state.reason ?? ""} onInput=${set("reason")} />`;
}

function bodyOf(item) {
  if (item.kind === "correction") return { answer: item.text };
  if (item.kind === "thumb") return { value: item.choice === "up" ? 1 : -1, reason: item.reason, comment: item.text };
  const given = item.choice === "withdrawn" ? { choice: "A", strength: null } : { choice: item.choice, strength: item.strength };
  return { ...given, reason: item.reason, interface: "my-feedback/1" };
}

function Change({ item, onClose, onDone }) {
  const [state, setState] = useState(bodyOf(item));
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const save = async () => {
    setBusy(true);
    try {
      await put(pathOf(item), state);
      toast("Changed.");
      onDone();
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  const actions = html`<${Button} onClick=${onClose}>Cancel</${Button}><${Button} kind="primary" busy=${busy} onClick=${save}>Save</${Button}>`;
  return html`<${Dialog} title="Change what you said" onClose=${onClose} actions=${actions}>
    <p><strong>${item.question}</strong></p><${Answers} item=${item} />
    <${Failure} error=${error} /><${Fields} item=${item} state=${state} setState=${setState} />
  </${Dialog}>`;
}

function Answers({ item }) {
  const names = item.answers.length === 2 ? ["Answer A", "Answer B"] : ["Answer"];
  return html`<dl class="said-of">${item.answers.map((text, at) => html`<div key=${at}>
    <dt>${names[at]}${item.versions[at] === undefined ? "" : `, version ${item.versions[at]}`}</dt><dd>${text}</dd></div>`)}</dl>`;
}

function Item({ item, onChange, onWithdraw }) {
  const gone = item.choice === "withdrawn" || item.state === "removed";
  const changeable = item.kind !== "correction" || item.state === "proposed";
  return html`<li class="card">
    <h3>${item.question}</h3>
    <p class="row"><${Badge}>${SAID[item.choice]}${BY_HOW_MUCH[item.strength] ?? ""}</${Badge}><span class="quiet"><${When} at=${item.at} /></span></p>
    ${item.text && html`<blockquote>${item.text}</blockquote>`}
    ${item.reason && html`<p>Your reason: ${item.reason}</p>`}
    <details><summary>${item.answers.length === 2 ? "The two answers" : "The answer"}</summary><${Answers} item=${item} /></details>
    <p>${item.came_of_it}</p>
    ${!gone && html`<div class="row">
      ${changeable && html`<${Button} aria-label=${`Change what you said to: ${item.question}`} onClick=${() => onChange(item)}>Change</${Button}>`}
      <${Button} aria-label=${`Withdraw what you said to: ${item.question}`} onClick=${() => onWithdraw(item)}>Withdraw</${Button}></div>`}
  </li>`;
}

/** All pages read so far of one kind; `more` reads the next. */
function useFeedback(kind) {
  const [state, setState] = useState({ items: [], next: null, error: null, loading: true });
  const read = async (after) => {
    const query = new URLSearchParams({ ...(kind && { kind }), ...(after && { after }) });
    setState((old) => ({ ...old, error: null, loading: true }));
    try {
      const { items, next } = await get(`/api/my/feedback?${query}`);
      setState((old) => ({ items: after ? [...old.items, ...items] : items, next, error: null, loading: false }));
    } catch (error) {
      setState((old) => ({ ...old, error, loading: false }));
    }
  };
  useEffect(() => { read(null); }, [kind]);
  return { ...state, reload: () => read(null), more: () => read(state.next) };
}

export default function MyFeedbackPage() {
  const [kind, setKind] = useState("");
  const [changing, setChanging] = useState(null);
  const { items, next, error, loading, reload, more } = useFeedback(kind);
  const withdraw = async (item) => {
    const sure = await confirmed({
      title: "Withdraw this?", yes: "Withdraw", no: "Keep it", danger: true,
      text: "Later trainings leave it out. A version that has learnt from it already does not forget it; the next one starts without it.",
    });
    if (!sure) return;
    try {
      await remove(pathOf(item));
      toast("Withdrawn.");
    } catch (problem) {
      toast(problem.message);
    }
    reload();
  };
  return html`<${Page} title="My feedback">
    <p>What you said about answers. You can change it and take it back at any time.</p>
    <${Effects} />
    <section aria-labelledby="given-head"><h2 id="given-head">What you said</h2>
      <${Field} label="Show" as="select" value=${kind} onChange=${(event) => setKind(event.target.value)}>
        ${Object.entries(KINDS).map(([id, label]) => html`<option key=${id} value=${id}>${label}</option>`)}</${Field}>
      <${Failure} error=${error} onRetry=${reload} />
      ${!items.length && !loading && !error && html`<${Empty}>Nothing yet. A thumb below any answer is a good beginning.</${Empty}>`}
      <ul class="cards">${items.map((item) => html`<${Item} key=${item.id} item=${item} onChange=${setChanging} onWithdraw=${withdraw} />`)}</ul>
      ${next && html`<p><${Button} busy=${loading} onClick=${more}>Show more</${Button}></p>`}
    </section>
    ${changing && html`<${Change} item=${changing} onClose=${() => setChanging(null)} onDone=${() => { setChanging(null); reload(); }} />`}
  </${Page}>`;
}
