// Figures of the feedback, questions no source could answer, and the feedback as training data.
import { html, useState } from "/static/vendor/ui.js";
import { Empty, Failure, Field, LinkButton, Page, Progress, Table, Tabs, useLoad } from "../frame/parts.js";
import { Plot } from "../frame/plot.js";

const PERIODS = [[7, "7 days"], [30, "30 days"], [90, "90 days"]];
const KINDS = [
  ["preference", "Preferences", "Two answers, the chosen and the rejected one: for reward models and DPO."],
  ["unpaired", "Judged answers", "One answer and whether it was good: for KTO."],
  ["prompt-completion", "Right answers", "A question and its right answer: for supervised training."],
];

const percent = (share) => `${Math.round(share * 100)}%`;
const rate = (found) => (found ? `${percent(found.value)} (${percent(found.low)} to ${percent(found.high)})` : "–");

const COLUMNS = [
  { label: "Questions", align: "end", cell: (row) => row.questions },
  { label: "With feedback", align: "end", cell: (row) => rate(row.feedback_rate) },
  { label: "Thumbs up", align: "end", cell: (row) => row.up },
  { label: "Thumbs down", align: "end", cell: (row) => row.down },
  { label: "Up of all thumbs", align: "end", cell: (row) => rate(row.up_rate) },
  { label: "Comparisons", align: "end", cell: (row) => row.comparisons },
  { label: "Corrections", align: "end", cell: (row) => row.corrections },
];

function Volumes({ figures }) {
  const days = figures.days;
  const x = days.map(({ day }) => Date.parse(`${day}T00:00:00Z`) / 1000);
  const series = [["Questions", "questions"], ["Thumbs", null], ["Comparisons", "comparisons"], ["Corrections", "corrections"]]
    .map(([label, name]) => ({ label, values: days.map((day) => (name ? day[name] : day.up + day.down)) }));
  return html`<${Plot} title="A day" x=${x} days zero xLabel="day" series=${series} />
    <${Table} caption="The whole period" columns=${COLUMNS} rows=${[{ id: "total", ...figures.total }]} />
    <h2>Agreement</h2><p>${figures.agreement.sentence}</p>
    <h2>By version</h2>
    <${Table} caption="Feedback by policy version" rowKey=${(row) => row.version} rows=${figures.versions} empty="Nothing was answered in this period."
      columns=${[{ label: "Version", header: true, cell: (row) => row.version }, ...COLUMNS]} />`;
}

function Figures() {
  const [days, setDays] = useState(30);
  const [simulated, setSimulated] = useState(false);
  const { data, error, reload } = useLoad(`/api/feedback/figures?days=${days}&simulated=${simulated}`);
  return html`<div class="choices">
      <${Field} label="Period" as="select" value=${String(days)} onChange=${(event) => setDays(Number(event.target.value))}>
        ${PERIODS.map(([value, label]) => html`<option value=${String(value)}>${label}</option>`)}</${Field}>
      <${Field} label="Whose" as="select" value=${String(simulated)} onChange=${(event) => setSimulated(event.target.value === "true")}>
        <option value="false">People</option><option value="true">Simulated people</option></${Field}>
    </div>
    <${Failure} error=${error} onRetry=${reload} />
    ${data ? html`<${Volumes} figures=${data} />` : !error && html`<${Progress} label="Counting" />`}`;
}

function Topics() {
  const { data, error, reload } = useLoad("/api/feedback/topics?days=90");
  if (error) return html`<${Failure} error=${error} onRetry=${reload} />`;
  if (!data) return html`<${Progress} label="Loading" />`;
  if (!data.questions) return html`<${Empty}>Every question of the last 90 days had a source.</${Empty}>`;
  const title = ({ words }) => (words.length ? words.join(", ") : "Others");
  return html`<p>${data.questions}${data.more ? " and more" : ""} questions of the last 90 days had no source, here by a word they share.</p>
    <ul class="cards">${data.topics.map((topic) => html`<li class="card" key=${title(topic)}><h2>${title(topic)} <span class="quiet">${topic.questions}</span></h2>
      <ul>${topic.examples.map((example) => html`<li>${example}</li>`)}</ul></li>`)}</ul>
    <p><a href="/review">Answer them in the review queue</a></p>`;
}

function Export() {
  const [simulated, setSimulated] = useState(false);
  const link = (kind, form) => `/api/export/${kind}?form=${form}&simulated=${simulated}`;
  return html`<p>Files that TRL's trainers read as they are. Questions kept for evaluation, votes taken back and deleted conversations are never in them.</p>
    <${Field} label="With the votes of simulated people, marked as such" type="checkbox" checked=${simulated} onChange=${(event) => setSimulated(event.target.checked)} />
    <ul class="cards">${KINDS.map(([kind, title, about]) => html`<li class="card" key=${kind}><h2>${title}</h2><p>${about}</p>
      <div class="row">${[["jsonl", "JSON lines"], ["parquet", "Parquet"]].map(([form, label]) => html`<${LinkButton} href=${link(kind, form)}
        download aria-label=${`${title} as ${label}`}>${label}</${LinkButton}>`)}</div></li>`)}</ul>`;
}

export default function Feedback() {
  const tabs = [
    { id: "figures", label: "Figures", content: () => html`<${Figures} />` },
    { id: "topics", label: "Unanswered questions", content: () => html`<${Topics} />` },
    { id: "export", label: "Training data", content: () => html`<${Export} />` },
  ];
  return html`<${Page} title="Feedback" wide><${Tabs} label="What to see" tabs=${tabs} /></${Page}>`;
}
