// What the pages about training, policies and the leaderboard share: words, times, intervals, lists.
import { html, useEffect, useState } from "/static/vendor/ui.js";
import { get, post } from "../frame/api.js";
import { Badge, Button, Dialog, Failure, Field, confirmed, toast } from "../frame/parts.js";

const STATES = {
  queued: ["waits to begin", "warn"], running: ["running", "live"], interrupted: ["interrupted", "warn"],
  awaiting_approval: ["waits for approval", "warn"], promoted: ["live since", "good"], refused: ["refused", "bad"],
  failed: ["failed", "bad"], cancelled: ["cancelled", ""],
};
const STAGES = {
  snapshot: "Freezing what people said", sft: "Learning the right answers", reward_model: "Learning from votes",
  ppo: "Practising against the votes", evaluation: "Examining the candidate",
};
const KINDS = { base: "as it came", sft: "learnt from right answers", ppo: "learnt from votes" };

export const stageName = (stage) => STAGES[stage] ?? stage;
export const kindName = (kind) => KINDS[kind] ?? kind;

/** The state of a run in words. */
export function RunState({ state }) {
  const [words, kind] = STATES[state] ?? [state, ""];
  return html`<${Badge} kind=${kind}>${state === "promoted" ? "went live" : words}</${Badge}>`;
}

/** Seconds as people say them. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export const percent = (share) => `${Math.round(share * 100)}%`;

/** A share with its interval, in words. */
export const shareText = ({ value, low, high }) => `${percent(value)} (${percent(low)} to ${percent(high)})`;

/** A share with its interval as a bar with a mark at one half; the words beside it say the same. */
export function ShareBar({ value, low, high }) {
  const at = (share) => 100 * share;
  return html`<svg class="share-bar" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">
    <line class="half" x1="50" y1="0" x2="50" y2="12" />
    <rect class="between" x=${at(low)} y="4" width=${Math.max(0.8, at(high) - at(low))} height="4" />
    <rect class="value" x=${at(value) - 0.8} y="1" width="1.6" height="10" />
  </svg>`;
}

/** The rows of a list that comes in pages: {rows, error, more, loading, next()}. */
export function usePages(path) {
  const [state, setState] = useState({ rows: [], next: 0, error: null, loading: true, of: path });
  const read = async (after, before) => {
    setState((old) => ({ ...old, loading: true }));
    try {
      const page = await get(after === 0 ? path : `${path}?after=${encodeURIComponent(after)}`);
      setState({ rows: [...before, ...page.rows], next: page.next, error: null, loading: false, of: path });
    } catch (error) {
      setState((old) => ({ ...old, error, loading: false }));
    }
  };
  useEffect(() => { read(0, []); }, [path]);
  return { ...state, more: state.next !== null && state.next !== 0, readMore: () => read(state.next, state.rows) };
}

/** A list in pages, drawn by `row`; `empty` says what it means that there is none. */
export function Pages({ path, label, row, empty }) {
  const { rows, error, more, loading, readMore } = usePages(path);
  if (error && !rows.length) return html`<${Failure} error=${error} />`;
  if (!rows.length) return html`<p class="empty">${loading ? "Loading…" : empty}</p>`;
  return html`<ul class="cards" aria-label=${label}>${rows.map((one, at) => html`<li class="card" key=${at}>${row(one)}</li>`)}</ul>
    <${Failure} error=${error} />
    ${more && html`<p class="more"><${Button} busy=${loading} onClick=${readMore}>Show more</${Button}></p>`}`;
}

/** Ask, do, and say how it went; `done` is called once it is done. */
export async function act(path, { ask = null, said, body = {}, done }) {
  if (ask && !await confirmed(ask)) return;
  try {
    await post(path, body);
    toast(said);
    await done?.();
  } catch (error) {
    toast(error.message, { seconds: 12 });
  }
}

/** What a roll back does, before it is done. */
export function rollBack(live, previous, done) {
  return act("/api/policies/rollback", {
    ask: {
      title: `Go back to version ${previous}?`, yes: `Go back to version ${previous}`, danger: true,
      text: `New questions will be answered by version ${previous} within a second or two. Answers that have begun end with version ${live}. Nothing is lost: version ${live} can be made live again.`,
    },
    said: `Version ${previous} is on its way to being live.`, done,
  });
}

/** A decision with its grounds, which are kept with it. */
export function Decide({ title, text, yes, danger = false, onClose, onDecide }) {
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const decide = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await onDecide(reason.trim() || "decided on the page");
      onClose();
    } catch (failed) {
      setError(failed);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${title} onClose=${onClose}><form onSubmit=${decide}>
    <p>${text}</p><${Failure} error=${error} />
    <${Field} label="On what grounds" hint="Kept with the decision, for whoever asks later." maxlength="300"
      value=${reason} onInput=${(event) => setReason(event.target.value)} />
    <div class="row end"><${Button} onClick=${onClose}>Cancel</${Button}>
      <${Button} kind=${danger ? "danger" : "primary"} type="submit" busy=${busy}>${yes}</${Button}></div>
  </form></${Dialog}>`;
}
