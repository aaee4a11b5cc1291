// What people say of one answer: thumbs with optional reasons and a comment, and the right answer.
import { html, useState } from "/static/vendor/ui.js";
import { post, remove } from "/static/frame/api.js";
import { Button, Failure, Field, toast } from "/static/frame/parts.js";

const REASONS = {
  [-1]: ["Wrong", "Out of date", "Incomplete", "Hard to understand", "Too long", "Off topic"],
  1: ["Correct", "Clear", "Complete", "Well sourced"],
};
const ASKED = { [-1]: "What is the matter with it?", 1: "What was good about it?" };

export function Feedback({ answer, onChange }) {
  const [open, setOpen] = useState(null);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const { thumb } = answer;
  const work = async (doing) => {
    setBusy(true);
    setError(null);
    try {
      await doing();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  const give = (value, detail = {}) => work(async () => {
    const body = { value, replaces: thumb?.id ?? null, ...detail };
    const { id } = await post(`/api/candidates/${answer.id}/thumb`, body);
    onChange({ thumb: { id, value, reason: detail.reason ?? null, comment: detail.comment ?? null } });
    setOpen(detail.reason || detail.comment ? null : "why");
    toast("Thank you.");
  });
  const withdraw = () => work(async () => {
    await remove(`/api/my/feedback/thumbs/${thumb.id}`);
    onChange({ thumb: null });
    setOpen(null);
    toast("Taken back.");
  });
  const press = (value) => (thumb?.value === value ? withdraw() : give(value));
  const propose = (text) => work(async () => {
    await post(`/api/candidates/${answer.id}/correction`, { answer: text });
    onChange({ correction: text });
    setOpen(null);
    toast("Thank you. Somebody will check it.");
  });
  return html`<footer class="feedback">
    <div class="row">
      <${Button} kind="plain" aria-label="Good answer" aria-pressed=${String(thumb?.value === 1)} disabled=${busy} onClick=${() => press(1)}>Good</${Button}>
      <${Button} kind="plain" aria-label="Bad answer" aria-pressed=${String(thumb?.value === -1)} disabled=${busy} onClick=${() => press(-1)}>Bad</${Button}>
      ${thumb && open !== "why" && html`<${Button} kind="plain" onClick=${() => setOpen("why")}>Say why</${Button}>`}
      <${Button} kind="plain" aria-expanded=${String(open === "right")} onClick=${() => setOpen(open === "right" ? null : "right")}>The right answer is …</${Button}>
    </div>
    ${answer.correction && open !== "right" && html`<p class="quiet">You proposed the right answer. Somebody will check it.</p>`}
    ${open === "why" && thumb && html`<${Why} thumb=${thumb} busy=${busy} onSend=${(detail) => give(thumb.value, detail)} onSkip=${() => setOpen(null)} />`}
    ${open === "right" && html`<${Right} given=${answer.correction ?? ""} busy=${busy} onSend=${propose} onCancel=${() => setOpen(null)} />`}
    <${Failure} error=${error} />
  </footer>`;
}

function Why({ thumb, busy, onSend, onSkip }) {
  const [reason, setReason] = useState(thumb.reason ?? "");
  const [comment, setComment] = useState(thumb.comment ?? "");
  const submit = (event) => {
    event.preventDefault();
    if (reason || comment.trim()) onSend({ reason: reason || null, comment: comment.trim() || null });
    else onSkip();
  };
  return html`<form class="why" onSubmit=${submit}>
    <fieldset><legend>${ASKED[thumb.value]} (optional)</legend><div class="row">
      ${REASONS[thumb.value].map((text) => html`<label class="check" key=${text}><input type="radio" name=${`why-${thumb.id}`} value=${text}
        checked=${reason === text} onChange=${() => setReason(text)} /> ${text}</label>`)}</div></fieldset>
    <${Field} as="textarea" label="Anything to add? (optional)" rows="2" maxlength="4000" value=${comment} onInput=${(event) => setComment(event.target.value)} />
    <div class="row"><button type="submit" class="button primary" disabled=${busy}>Send</button><${Button} onClick=${onSkip}>Skip</${Button}></div></form>`;
}

function Right({ given, busy, onSend, onCancel }) {
  const [text, setText] = useState(given);
  const submit = (event) => { event.preventDefault(); if (text.trim()) onSend(text.trim()); };
  return html`<form class="why" onSubmit=${submit}>
    <${Field} as="textarea" label="What is the right answer?" hint="A reviewer checks it. Once it is accepted, whoever asks this question sees it at once."
      rows="4" maxlength="8000" required value=${text} onInput=${(event) => setText(event.target.value)} />
    <div class="row"><button type="submit" class="button primary" disabled=${busy}>Send the right answer</button><${Button} onClick=${onCancel}>Cancel</${Button}></div></form>`;
}
