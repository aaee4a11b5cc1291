// Keys of the chat page, and the list of them under "?".
import { html } from "/static/vendor/ui.js";
import { KeySwitch, singleKeys } from "/static/frame/keys.js";
import { Dialog } from "/static/frame/parts.js";

/** [keys as shown, what they do]; the votes' own keys are comparison.js's. */
const LIST = [
  ["Enter", "Ask"],
  ["Shift + Enter", "Begin a new line"],
  ["/", "Write a question"],
  ["Esc", "Stop the answer, or close what is open"],
  ["Alt + N", "Begin a new chat"],
  ["Alt + F", "Search your chats"],
  ["Alt + R", "Regenerate the last answer"],
  ["Alt + E", "Edit the last question"],
  ["Alt + ← and Alt + →", "Earlier and later branch of the last question that has some"],
  ["1 to 5, A, B, 0, S, U", "Vote where two answers stand side by side: much or slightly better, better, both bad, skip, undo"],
  ["?", "Show these"],
];

const typing = (target) => target?.closest?.("input, textarea, select, [contenteditable]") ?? null;

// On a Mac, Alt with a letter writes another sign or begins one, and with an arrow moves by a word.
function writes({ key, code, target }) {
  if (code.startsWith("Arrow")) return target.value !== "";
  return key === "Dead" || ([...key].length === 1 && `Key${key.toUpperCase()}` !== code);
}

/** What a key press asks for: a name of an action, or null. */
export function actionOf(event) {
  if (document.querySelector("dialog[open]")) return null;
  if (event.altKey && !event.ctrlKey && !event.metaKey) {
    if (typing(event.target) && writes(event)) return null;
    return { KeyN: "new", KeyF: "search", KeyR: "regenerate", KeyE: "edit", ArrowLeft: "earlier", ArrowRight: "later" }[event.code] ?? null;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  if (event.key === "Escape") return "escape";
  if (typing(event.target) || !singleKeys.value) return null;
  return { "/": "write", "?": "help" }[event.key] ?? null;
}

export function Shortcuts({ onClose }) {
  return html`<${Dialog} title="Keyboard shortcuts" onClose=${onClose}><dl class="shortcuts">
    ${LIST.map(([keys, does]) => html`<div key=${keys}><dt><kbd>${keys}</kbd></dt><dd>${does}</dd></div>`)}</dl><${KeySwitch} /></${Dialog}>`;
}
