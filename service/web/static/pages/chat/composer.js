// Where a question is written: Enter sends, Shift+Enter begins a line.
import { html, useEffect, useRef } from "/static/vendor/ui.js";
import { Button } from "/static/frame/parts.js";

const LONGEST = 4000;

/** A box that grows with its text. `onSend(text)` is called for a text that is not empty. */
export function QuestionBox({ label, value, onInput, onSend, onCancel = null, inputRef = null, describedBy = null, rows = 2 }) {
  const own = useRef(null);
  const box = inputRef ?? own;
  useEffect(() => {
    // CSS's field-sizing does it where the browser knows it.
    if (CSS.supports("field-sizing", "content") || !box.current) return;
    box.current.rows = Math.min(10, Math.max(rows, value.split("\n").length));
  }, [value]);
  const onKeyDown = (event) => {
    if (event.key === "Escape" && onCancel) { event.stopPropagation(); onCancel(); }
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (value.trim()) onSend(value.trim());
  };
  return html`<textarea ref=${box} class="question-box" aria-label=${label} rows=${rows} maxlength=${LONGEST} placeholder=${label}
    aria-describedby=${describedBy} value=${value} onInput=${(event) => onInput(event.target.value)} onKeyDown=${onKeyDown}></textarea>`;
}

export function Composer({ text, setText, two, setTwo, temporary, mayBeTemporary, setTemporary, busy, ready, onSend, onStop, inputRef, onHelp }) {
  const send = () => { if (text.trim() && ready && !busy) onSend(text.trim()); };
  const submit = (event) => { event.preventDefault(); send(); };
  return html`<form class=${temporary ? "composer temporary" : "composer"} onSubmit=${submit}>
    <${QuestionBox} label="Ask a question" value=${text} onInput=${setText} onSend=${send} inputRef=${inputRef} describedBy="composer-hint" />
    <div class="row">
      ${!temporary && html`<label class="check"><input type="checkbox" checked=${two} onChange=${(event) => setTwo(event.target.checked)} /> Show two answers</label>`}
      ${mayBeTemporary && html`<label class="check"><input type="checkbox" role="switch" checked=${temporary} onChange=${(event) => setTemporary(event.target.checked)} /> Temporary chat</label>`}
      <span class="hint" id="composer-hint">Enter sends, Shift+Enter starts a new line</span>
      <${Button} kind="plain help" aria-label="Keyboard shortcuts" aria-keyshortcuts="?" onClick=${onHelp}>?</${Button}>
      ${busy ? html`<${Button} key="stop" onClick=${onStop}>Stop</${Button}>`
    : html`<button key="ask" type="submit" class="button primary" disabled=${!ready || !text.trim()}>Ask</button>`}
    </div></form>`;
}
