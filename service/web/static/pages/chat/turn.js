// One turn: the question with its branches, the answers, their sources.
import { html, useCallback, useEffect, useMemo, useRef, useState } from "/static/vendor/ui.js";
import { Comparison } from "/static/frame/comparison.js";
import { Markdown } from "/static/frame/markdown.js";
import { Badge, Button, Failure } from "/static/frame/parts.js";
import { QuestionBox } from "./composer.js";
import { Feedback } from "./feedback.js";
import { siblingsOf } from "./talk.js";

const SETTLED_MS = 100;

export function Turn({ talk, turn, last, onCite }) {
  const editing = talk.editing.value === turn.id;
  const setEditing = (on) => { talk.editing.value = on ? turn.id : null; };
  const busy = talk.busy.value;
  const state = turn.state.value;
  const begun = !turn.id.startsWith("new-");
  const again = () => { talk.drop(turn); talk.ask(turn.question, { two: turn.compared, instead: turn.instead }); };
  const rerun = (question) => { setEditing(false); talk.ask(question, { instead: turn, two: turn.compared && question === turn.question }); };
  return html`<article class="turn" aria-label=${`Question: ${turn.question.slice(0, 80)}`}>
    ${editing ? html`<${Editor} question=${turn.question} onSend=${rerun} onCancel=${() => setEditing(false)} />`
    : html`<p class="asked">${turn.question}</p>`}
    <${Branches} talk=${talk} turn=${turn} />
    ${turn.no_source && html`<p class="notice warn">No good source was found for this. The answer below rests on no document: check it before you rely on it.</p>`}
    ${turn.verified && html`<${Verified} verified=${turn.verified} />`}
    <${Answers} talk=${talk} turn=${turn} last=${last} onCite=${onCite} />
    ${begun && turn.passages.length > 0 && html`<${Sources} passages=${turn.passages} onCite=${onCite} />`}
    ${state === "failed" && html`<${Failure} error=${turn.failure.value} />
      <div class="row"><${Button} onClick=${begun ? () => rerun(turn.question) : again} disabled=${busy}>Ask again</${Button}></div>`}
    ${state === "over" && !editing && html`<div class="row turn-actions">
      <${Button} kind="plain" disabled=${busy} onClick=${() => rerun(turn.question)}>Regenerate</${Button}>
      <${Button} kind="plain" disabled=${busy} onClick=${() => setEditing(true)}>Edit and ask again</${Button}></div>`}
  </article>`;
}

function Editor({ question, onSend, onCancel }) {
  const [text, setText] = useState(question);
  const box = useRef(null);
  const focus = useCallback((element) => { if (element && box.current !== element) { box.current = element; element.focus(); } }, []);
  const submit = (event) => { event.preventDefault(); if (text.trim()) onSend(text.trim()); };
  return html`<form class="editor" onSubmit=${submit} ref=${(form) => focus(form?.querySelector("textarea"))}>
    <${QuestionBox} label="Your question, changed" value=${text} onInput=${setText} onSend=${onSend} onCancel=${onCancel} />
    <p class="hint">The earlier answer stays: this begins a branch beside it.</p>
    <div class="row"><button type="submit" class="button primary">Ask again</button><${Button} onClick=${onCancel}>Cancel</${Button}></div></form>`;
}

function Branches({ talk, turn }) {
  const siblings = siblingsOf(talk.turns.value, turn);
  if (siblings.length < 2) return null;
  const at = siblings.indexOf(turn);
  const show = (step) => talk.showBranch(siblings[at + step]);
  return html`<div class="row branches" role="group" aria-label="Branches of this question">
    <${Button} kind="plain" aria-label="Earlier branch" disabled=${at === 0} onClick=${() => show(-1)}>‹</${Button}>
    <span>${at + 1}/${siblings.length}</span>
    <${Button} kind="plain" aria-label="Later branch" disabled=${at === siblings.length - 1} onClick=${() => show(1)}>›</${Button}></div>`;
}

function Verified({ verified }) {
  return html`<section class="verified" aria-label="Verified answer">
    <header class="row"><${Badge} kind="good">✓ Verified answer</${Badge}>
      <span class="quiet">accepted by ${verified.by}${verified.withdrawn ? ", withdrawn since" : ""}</span></header>
    <${Markdown} text=${verified.text} /></section>`;
}

function Answers({ talk, turn, last, onCite }) {
  const answers = turn.answers.value;
  if (turn.state.value === "writing" && !answers.length) return html`<p class="quiet">Looking it up…</p>`;
  const whole = turn.state.value !== "failed" && answers.every(({ finish_reason: reason }) => reason !== "cancelled");
  if (turn.compared && answers.length === 2 && whole) return html`<${Pair} talk=${talk} turn=${turn} last=${last} onCite=${onCite} />`;
  const shown = answers.map((answer) => html`<${Answer} key=${answer.side} talk=${talk} turn=${turn} answer=${answer} onCite=${onCite} />`);
  if (!turn.verified) return shown;
  return html`<details class="own-answer"><summary>What Heed itself would answer</summary>${shown}</details>`;
}

function Answer({ talk, turn, answer, onCite }) {
  const change = (given) => {
    turn.answers.value = turn.answers.peek().map((other) => (other.id === answer.id ? { ...other, ...given } : other));
  };
  const title = answer.side ? `Answer ${answer.side}` : "Answer";
  return html`<section class="answer" aria-label=${title} aria-busy=${answer.writing ? "true" : "false"}>
    ${answer.finish_reason === "cancelled" && html`<p class="quiet">This answer was ended early; what was written is kept.</p>`}
    ${answer.simulated && html`<${Badge}>simulated</${Badge}>`}
    <${Markdown} text=${answer.text || (answer.writing ? "" : "(no answer)")} writing=${Boolean(answer.writing)} citations=${turn.passages} onCite=${onCite} />
    ${answer.writing && html`<span class="caret" aria-hidden="true"></span>`}
    ${!answer.writing && answer.id && !talk.temporary.value && html`<${Feedback} answer=${answer} onChange=${change} />`}
  </section>`;
}

function Pair({ talk, turn, last, onCite }) {
  const answers = turn.answers.value;
  const bySide = useMemo(() => Object.fromEntries(answers.map((answer) => [answer.side, { text: answer.text, writing: Boolean(answer.writing) }])), [answers]);
  const versions = Object.fromEntries(answers.map(({ side, version, canary }) => [side, { version, canary }]));
  const frame = useRef(null);
  const over = turn.state.value === "over";
  const begunHere = useRef(!over);
  useEffect(() => {
    // Keys vote from here on; whoever has begun to write goes on writing.
    const typing = document.activeElement?.matches?.("textarea, input") && document.activeElement.value !== "";
    if (over && begunHere.current && last && !typing && !document.querySelector("dialog[open]")) frame.current?.focus({ preventScroll: true });
    // On a small window the end of the vote would be seen, and not what it is about.
    if (over && begunHere.current && last && frame.current?.offsetHeight > window.innerHeight / 2) {
      setTimeout(() => frame.current?.scrollIntoView({ block: "start" }), SETTLED_MS);
    }
  }, [over]);
  const known = versions.A?.version != null && versions.B?.version != null;
  const reveal = useMemo(() => (known ? {
    version_a: versions.A.version, version_b: versions.B.version, canary_a: versions.A.canary, canary_b: versions.B.canary,
    goes_on_with: ["A", "B"].includes(turn.comparison?.choice) ? turn.comparison.choice : null,
  } : null), [known, turn.comparison?.choice]);
  const given = (vote) => { turn.comparison = vote; };
  return html`<div class="pair" tabindex="-1" ref=${frame} role="group" aria-label="Two answers to compare"><${Comparison} answers=${bySide} path=${`/api/turns/${turn.id}/comparison`} page="chat" vote=${turn.comparison} reveal=${reveal}
      keys=${last} citations=${turn.passages} onCite=${onCite} onVote=${given} onUndo=${() => given(null)} onReveal=${() => talk.refreshTurn(turn)} /></div>
    ${turn.state.value === "over" && html`<details class="each"><summary>Say more about an answer</summary>
      ${answers.map((answer) => html`<div key=${answer.side}><h4>Answer ${answer.side}</h4>
        <${Feedback} answer=${answer} onChange=${(change) => { turn.answers.value = turn.answers.peek().map((other) => (other.side === answer.side ? { ...other, ...change } : other)); }} /></div>`)}</details>`}`;
}

function Sources({ passages, onCite }) {
  return html`<nav class="sources" aria-label="Sources of this answer"><span class="quiet">Sources</span>
    <ol>${passages.map((passage, at) => html`<li key=${passage.id}><button type="button" class="source" onClick=${() => onCite(passage, at + 1)}>
      <span class="number">${at + 1}</span> ${passage.title}${passage.heading && html` <span class="quiet">› ${passage.heading}</span>`}</button></li>`)}</ol></nav>`;
}
