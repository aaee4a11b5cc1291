// What a run learnt from: its frozen votes, thumbs, right answers and documents.
import { html, useState } from "/static/vendor/ui.js";
import { Badge, Empty, Failure, Tabs, useLoad } from "../frame/parts.js";
import { renamePlace } from "../frame/router.js";
import { Pages } from "./operate.js";

const OUTCOMES = { a: "The first was better", b: "The second was better", tie: "Equally good", both_bad: "Both bad" };
const USES = { train: "learnt", held_out: "kept aside to measure", exam: "part of the exam" };
const KINDS = [
  ["votes", "Votes", "comparisons"], ["thumbs", "Thumbs", "thumbs"],
  ["gold-answers", "Right answers", "demonstrations"], ["documents", "Documents", null],
];

export function Learnt({ path, run, of }) {
  const { data, error } = useLoad(`${path}/snapshot`);
  const [own, setOwn] = useState(of ?? "votes");
  if (error) return html`<${Failure} error=${error} />`;
  if (!data) return html`<${Empty}>Loading…</${Empty}>`;
  const choose = (kind) => { setOwn(kind); renamePlace(`/runs/${run}?tab=learnt&of=${kind}`); };
  const tabs = KINDS.map(([id, label, counted]) => ({
    id, label: counted ? `${label} (${data.counts[counted] ?? 0})` : label,
    content: () => html`<${Pages} key=${id} path=${`${path}/snapshot/${id}`} label=${label} row=${ROWS[id]} empty="None of these." />`,
  }));
  return html`<div><p class="quiet">Frozen when the run began, as snapshot <code>${data.hash.slice(0, 16)}</code>. What came later is not in it.</p>
    <${Tabs} label="What it learnt from" tabs=${tabs} chosen=${own} onChoose=${choose} /></div>`;
}

const Simulated = ({ row }) => row.simulated && html`<${Badge}>simulated</${Badge}>`;

function Vote(row) {
  const chosen = (side) => (row.outcome === side ? html` <${Badge} kind="good">chosen</${Badge}>` : "");
  const version = (number) => (number === null ? "" : html` · <a href=${`/policies/${number}`}>version ${number}</a>`);
  if (row.since === "deleted") return Deleted(row);
  return html`<h3>${row.question}</h3>
    <p class="row"><span>${OUTCOMES[row.outcome]}${row.strength ? ` (${row.strength})` : ""}</span><${Badge}>${USES[row.use]}</${Badge}>
      <${Simulated} row=${row} />${row.since !== "in force" && html`<${Badge} kind="warn">${row.since} since</${Badge}>`}</p>
    <div class="sides"><section><h4>First${version(row.version_a)}${chosen("a")}</h4><p class="said">${row.answer_a}</p></section>
      <section><h4>Second${version(row.version_b)}${chosen("b")}</h4><p class="said">${row.answer_b}</p></section></div>`;
}

function Deleted(row) {
  return html`<p class="quiet">Whoever asked deleted this conversation since, so that its texts are not shown.</p><p><${Badge}>${USES[row.use]}</${Badge}></p>`;
}

function Thumb(row) {
  if (row.deleted) return Deleted(row);
  return html`<h3>${row.question}</h3><p class="row"><span>${row.up ? "👍 Thumb up" : "👎 Thumb down"}</span><${Badge}>${USES[row.use]}</${Badge}><${Simulated} row=${row} /></p>
    <p class="said">${row.answer}</p>`;
}

function Gold(row) {
  const gone = { removed: "removed since", gone: "no longer there", proposed: "only proposed now" }[row.state];
  return html`<h3>${row.question}</h3>
    <p class="row"><${Badge}>${USES[row.use]}</${Badge}>${row.author && html`<span class="quiet">by ${row.author}</span>`}
      ${row.origin === "correction" && html`<${Badge}>a corrected answer</${Badge}>`}${gone && html`<${Badge} kind="warn">${gone}</${Badge}>`}</p>
    <p class="said">${row.answer}</p>`;
}

function Document(row) {
  const safe = row.url && /^https?:/.test(row.url);
  return html`<h3>${safe ? html`<a href=${row.url} rel="noopener noreferrer" target="_blank">${row.title}</a>` : row.title}</h3>
    <p class="quiet">${row.id ? `from ${row.source}` : "no longer among the sources"}; behind ${row.prompts} ${row.prompts === 1 ? "question" : "questions"}</p>`;
}

const ROWS = { votes: Vote, thumbs: Thumb, "gold-answers": Gold, documents: Document };
