// The voting page: one waiting pair after the other, by mouse or by keys alone.
import { html, useCallback, useEffect, useRef, useState } from "/static/vendor/ui.js";
import { get, post } from "../frame/api.js";
import { Comparison, takeBack, useKeys } from "../frame/comparison.js";
import { KeySwitch } from "../frame/keys.js";
import { Button, Empty, Failure, LinkButton, Page, useLoad } from "../frame/parts.js";

const LATE_MS = 250;

const inWords = ({ passed, of }, none) => (of ? `${passed} of ${of}` : none);

function Figures({ figures }) {
  if (!figures) return null;
  const { waiting, own, left_today: left } = figures;
  const rows = [
    ["Waiting for you", waiting >= 100 ? "100 or more" : waiting],
    ["Your votes today", own.today],
    ["Your votes in all", own.total],
    ["You chose what others chose", inWords(own.agreement, "no pair in common yet")],
    ["You chose the same when a pair came again", inWords(own.consistency, "not asked twice yet")],
    ["The chat may still ask you today", left],
  ];
  return html`<section aria-labelledby="figures-head"><h2 id="figures-head">Your voting</h2>
    <dl class="own-voting">${rows.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    <p class="hint">Nobody is right all the time: some pairs are close. A day is counted in UTC.</p>
    <${KeySwitch} />
  </section>`;
}

function told({ kind, passed, version_a: a, version_b: b }) {
  if (kind === "pair" && a === null) return "";
  if (kind === "pair") return `Your last pair: answer A was by version ${a}, answer B by version ${b}.`;
  if (passed === null) return "Your last pair was a check; you skipped it.";
  if (kind === "repeat") {
    return passed ? "Your last pair came a second time, and you chose the same answer again."
      : "Your last pair came a second time, and you chose the other answer. That happens with close pairs.";
  }
  return passed ? "Your last pair was a check with a known answer, and you found it."
    : "Your last pair was a check: the other answer was written for that question. That happens; the next one will go better.";
}

/** What the last pair was, told once its vote can no longer be undone. */
function LastPair({ vote }) {
  const [text, setText] = useState("");
  useEffect(() => {
    setText("");
    if (!vote) return undefined;
    const look = async () => {
      try {
        setText(told(await get(`/api/my/feedback/comparisons/${vote.id}/reveal`)));
      } catch {
        // Taken back meanwhile: there is nothing to tell.
      }
    };
    const timer = setTimeout(look, vote.undo_s * 1000 + LATE_MS);
    return () => clearTimeout(timer);
  }, [vote?.id]);
  return html`<p class="last-pair" role="status">${text}</p>`;
}

function Passages({ passages }) {
  if (!passages.length) return html`<p class="quiet">No source was found for this question.</p>`;
  return html`<details><summary>${passages.length === 1 ? "1 source" : `${passages.length} sources`} that both answers were given</summary>
    ${passages.map((passage) => html`<section class="card" key=${passage.id}><h3>${passage.title}</h3><p>${passage.text}</p></section>`)}
  </details>`;
}

function Pair({ offer, onVote, onUndo, heading }) {
  return html`<section class="pair" aria-labelledby="pair-question">
    ${offer.history.map((earlier) => html`<div class="earlier" key=${earlier.question}><p><strong>Asked before:</strong> ${earlier.question}</p><p class="quiet">${earlier.answer}</p></div>`)}
    <h2 id="pair-question" ref=${heading} tabindex="-1">${offer.question}</h2>
    <${Passages} passages=${offer.passages} />
    <${Comparison} key=${offer.id} page="vote" keys path=${`/api/vote-queue/${offer.id}`}
      answers=${{ A: { text: offer.answer_a }, B: { text: offer.answer_b } }}
      citations=${offer.passages} onVote=${onVote} onUndo=${onUndo} />
  </section>`;
}

export default function VotePage() {
  const figures = useLoad("/api/vote-queue/figures");
  const [state, setState] = useState({ offer: null, error: null, loading: true });
  const [last, setLast] = useState(null);
  const heading = useRef(null);

  const load = useCallback(async () => {
    setState((old) => ({ ...old, error: null, loading: true }));
    try {
      const { offer } = await post("/api/vote-queue");
      setState({ offer, error: null, loading: false });
    } catch (error) {
      setState({ offer: null, error, loading: false });
    }
  }, []);
  useEffect(() => { load(); }, []);
  // Whoever votes by keys hears the next question.
  useEffect(() => { if (last && state.offer) heading.current?.focus({ preventScroll: false }); }, [state.offer?.id]);

  const voted = (offer) => async (vote) => {
    setLast({ ...vote, offer, until: Date.now() + vote.undo_s * 1000 });
    figures.reload();
    await load();
  };
  const back = (offer) => () => {
    setLast(null);
    setState({ offer, error: null, loading: false });
    figures.reload();
  };
  useKeys(last !== null, (key) => key === "u" && Date.now() < last.until && (takeBack(last, back(last.offer)), true));

  const { offer, error, loading } = state;
  return html`<${Page} title="Vote" wide>
    <p>Which of two answers is better? Your vote decides what Heed learns. Use the buttons, or the keys shown on them;${" "}
      <kbd>U</kbd> takes your last vote back.</p>
    <${Failure} error=${error} onRetry=${load} />
    <${LastPair} vote=${last} />
    ${offer && html`<${Pair} offer=${offer} heading=${heading} onVote=${voted(offer)} onUndo=${back(offer)} />`}
    ${!offer && !error && !loading && html`<${Empty}>Nothing waits for your vote. Thank you.
      <span class="row"><${Button} onClick=${load}>Look again</${Button}> <${LinkButton} href="/">Ask a question</${LinkButton}></span></${Empty}>`}
    ${!offer && loading && html`<p class="quiet" role="status">Looking for a pair…</p>`}
    <${Failure} error=${figures.error} />
    <${Figures} figures=${figures.data} />
  </${Page}>`;
}
