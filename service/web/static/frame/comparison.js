// Two blind answers side by side, and the vote on them: by click, tap or key.
//
// <Comparison
//   answers=${{A: {text, writing, failed}, B: {...}}}   each side as it streams; `failed` is a text
//   path="/api/turns/ID/comparison"  where the vote is posted (voting page: "/api/vote-queue/ID")
//   page="chat"                      kept with the vote as the interface, with this file's version
//   vote=${{id, choice}}             one's vote in force, null before it (from history)
//   reveal=${{version_a, version_b, canary_a, canary_b, goes_on_with}}   null while it is unknown
//   keys=${true}                     whether the keys of the whole page vote here; one at a time
//   citations=${[{title}]} onCite=${(passage, number) => ...}   handed to Markdown
//   onVote=${(vote) => ...}          stored: {id, choice, undo_s}, which can be undone so long
//   onUndo=${(vote) => ...}          taken back
//   onReveal=${(reveal) => ...}      both versions may be known now
// />
// The vote bar works once both answers have ended. Keys: 1 A much better, 2 A slightly better,
// 3 about the same, 4 B slightly better, 5 B much better, A and B for better without saying by how
// much, 0 both bad, S skip, U undo. Keys never count while something is typed.
import { html, useEffect, useId, useRef, useState } from "/static/vendor/ui.js";
import { get, post, remove } from "./api.js";
import { singleKeys } from "./keys.js";
import { Markdown } from "./markdown.js";
import { Badge, Button, Failure, toast } from "./parts.js";

const VERSION = 1;
const LATE_MS = 250;

/** What each key and button says. */
export const BALLOTS = {
  a: { choice: "A", label: "A is better" },
  b: { choice: "B", label: "B is better" },
  1: { choice: "A", strength: "much", label: "A is much better" },
  2: { choice: "A", strength: "slightly", label: "A is slightly better" },
  3: { choice: "tie", label: "About the same" },
  4: { choice: "B", strength: "slightly", label: "B is slightly better" },
  5: { choice: "B", strength: "much", label: "B is much better" },
  0: { choice: "both_bad", label: "Both are bad" },
  s: { choice: "skip", label: "Skip" },
};

/** A choice in words, for lists and toasts. */
export const CHOICES = {
  A: "A is better", B: "B is better", tie: "About the same", both_bad: "Both are bad",
  skip: "Skipped", withdrawn: "Withdrawn",
};

const typing = (target) => target?.closest?.("input, textarea, select, [contenteditable], dialog") ?? null;

/** Call `onKey(key)` for plain keys anywhere on the page while `on`; true says it was used. */
export function useKeys(on, onKey) {
  const latest = useRef(onKey);
  latest.current = onKey;
  useEffect(() => {
    if (!on) return undefined;
    const listen = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || typing(event.target) || !singleKeys.value) return;
      if (document.querySelector("dialog[open]")) return;
      if (latest.current(event.key.toLowerCase())) event.preventDefault();
    };
    document.addEventListener("keydown", listen);
    return () => document.removeEventListener("keydown", listen);
  }, [on]);
}

/** Take a vote back, wherever its comparison stands now; true where that went well. */
export async function takeBack(vote, onUndo) {
  try {
    await remove(`/api/my/feedback/comparisons/${vote.id}`);
  } catch (error) {
    toast(error.message);
    return;
  }
  toast("Your vote is taken back.");
  onUndo?.(vote);
}

function Side({ side, answer, chosen, told, canary, citations, onCite, children }) {
  const id = useId();
  return html`<section class=${chosen ? "side chosen" : "side"} aria-labelledby=${id} aria-busy=${answer?.writing ? "true" : "false"}>
    <header class="row"><h3 id=${id}>Answer ${side}</h3>
      ${chosen && html`<${Badge} kind="good">Your choice</${Badge}>`}
      ${told != null && html`<${Badge}>Version ${told}${canary ? ", on trial" : ""}</${Badge}>`}</header>
    <${Markdown} text=${answer?.text ?? ""} writing=${Boolean(answer?.writing)} citations=${citations} onCite=${onCite} />
    ${answer?.writing && !answer.text && html`<p class="quiet">Writing…</p>`}
    <${Failure} error=${answer?.failed ?? null} />
    ${children}
  </section>`;
}

function Choice({ of, keys, busy, onChoose, children }) {
  const { label } = BALLOTS[of];
  return html`<${Button} disabled=${busy} aria-keyshortcuts=${keys ? of.toUpperCase() : null}
    onClick=${() => onChoose(of)}>${children ?? label}${keys && html` <kbd aria-hidden="true">${of.toUpperCase()}</kbd>`}</${Button}>`;
}

function Bar({ busy, ready, keys, reason, setReason, onChoose }) {
  const id = useId();
  const stop = busy || !ready;
  const choice = (of, text) => html`<${Choice} of=${of} keys=${keys} busy=${stop} onChoose=${onChoose}>${text}</${Choice}>`;
  return html`<div class="vote-bar" role="group" aria-labelledby=${id}>
    <p id=${id}>${ready ? "Which answer is better?" : "Which answer is better? Both are still being written."}</p>
    <div class="scale">${["1", "2", "3", "4", "5"].map((of) => choice(of))}</div>
    <div class="row">${choice("0")}${choice("s")}</div>
    <details><summary>Say why (optional)</summary>
      <label for=${`${id}-why`}>Your reason goes with your choice.</label>
      <textarea id=${`${id}-why`} rows="2" maxlength="500" value=${reason} onInput=${(event) => setReason(event.target.value)}></textarea>
    </details>
  </div>`;
}

function Result({ vote, reveal, left, onUndo, keys, busy }) {
  const versions = reveal?.version_a == null ? "" : `Answer A is by version ${reveal.version_a}, answer B by version ${reveal.version_b}.`;
  const on = reveal?.goes_on_with ? ` The conversation goes on with answer ${reveal.goes_on_with}.` : "";
  // The toast says the choice aloud; only what comes later is said here.
  return html`<div class="vote-result row">
    <span>Your vote: ${CHOICES[vote.choice] ?? vote.choice}.</span> <span role="status">${versions}${on}</span>
    ${left > 0 && html`<${Button} disabled=${busy} onClick=${onUndo} aria-keyshortcuts=${keys ? "U" : null}>Undo${keys && html` <kbd aria-hidden="true">U</kbd>`}</${Button}>
      <span class="quiet" aria-hidden="true">${left} s</span>`}
  </div>`;
}

/** Seconds to the moment `until` (milliseconds since the epoch), counted down. */
function useSecondsTo(until) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    if (until === null || until <= Date.now()) return undefined;
    const timer = setInterval(() => setNow(Date.now()), 250);
    return () => clearInterval(timer);
  }, [until]);
  return until === null ? 0 : Math.max(0, Math.ceil((until - Math.max(now, Date.now())) / 1000));
}

/** Since when both answers stand there, as this page's clock has it; null before. */
function useShownAt(ready) {
  const at = useRef(null);
  useEffect(() => { if (ready && at.current === null) at.current = performance.now(); }, [ready]);
  return at;
}

/** Ask for the versions once the vote is settled; the server decides when that is. */
function useReveal(vote, until, known, onReveal) {
  const [told, setTold] = useState(known);
  useEffect(() => { setTold(known); }, [known]);
  useEffect(() => {
    if (!vote || told || until === null) return undefined;
    const look = async () => {
      try {
        const found = await get(`/api/my/feedback/comparisons/${vote.id}/reveal`);
        if (found.version_a === null) return;
        setTold(found);
        onReveal?.(found);
      } catch {
        // Withdrawn meanwhile, or the connection is gone: the page tells it when it is read again.
      }
    };
    const timer = setTimeout(look, Math.max(0, until - Date.now()) + LATE_MS);
    return () => clearTimeout(timer);
  }, [vote?.id, until]);
  return [told, setTold];
}

export function Comparison({ answers, path, page = "chat", vote = null, reveal = null, keys = false,
  citations = [], onCite = null, onVote = null, onUndo = null, onReveal = null }) {
  const [given, setGiven] = useState(vote);
  const [until, setUntil] = useState(null);
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  useEffect(() => { setGiven(vote); }, [vote?.id]);
  const broken = Boolean(answers.A?.failed || answers.B?.failed);
  const ready = !broken && [answers.A, answers.B].every((side) => side && !side.writing);
  const shownAt = useShownAt(ready);
  const [told, setTold] = useReveal(given, until, reveal, onReveal);
  const left = useSecondsTo(until);

  const choose = async (of) => {
    const { choice, strength = null, label } = BALLOTS[of];
    setBusy(true);
    setError(null);
    const decision = shownAt.current === null ? null : Math.round(performance.now() - shownAt.current);
    try {
      const { id, undo_s: undo } = await post(path, {
        choice, strength, reason: reason.trim() || null, decision_ms: decision, interface: `${page}/${VERSION}`,
      });
      const stored = { id, choice, undo_s: undo };
      setGiven(stored);
      setUntil(Date.now() + undo * 1000);
      toast(label === "Skip" ? "Skipped." : `${label}. Thank you.`, { label: "Undo", action: () => undone(stored), seconds: undo });
      onVote?.(stored);
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  const undone = (stored) => takeBack(stored, (taken) => {
    setGiven(null);
    setUntil(null);
    setTold(null);
    onUndo?.(taken);
  });
  useKeys(keys, (key) => {
    if (busy) return false;
    if (given) return key === "u" && left > 0 && (undone(given), true);
    return ready && key in BALLOTS && (choose(key), true);
  });

  const side = (name, mine) => html`<${Side} side=${name} answer=${answers[name]} chosen=${given?.choice === name}
    told=${mine.version} canary=${mine.canary} citations=${citations} onCite=${onCite}>
    ${!given && ready && html`<${Choice} of=${name.toLowerCase()} keys=${keys} busy=${busy} onChoose=${choose} />`}
  </${Side}>`;
  return html`<div class="comparison">
    <div class="sides">
      ${side("A", { version: told?.version_a, canary: told?.canary_a })}
      ${side("B", { version: told?.version_b, canary: told?.canary_b })}
    </div>
    <${Failure} error=${error} />
    ${given ? html`<${Result} vote=${given} reveal=${told} left=${left} busy=${busy} keys=${keys} onUndo=${() => undone(given)} />`
      : !broken && html`<${Bar} busy=${busy} ready=${ready} keys=${keys} reason=${reason} setReason=${setReason} onChoose=${choose} />`}
  </div>`;
}
