// Reward signals: how much each counts, and what one reads of a text.
import { html, useMemo, useState } from "/static/vendor/ui.js";
import { post } from "../frame/api.js";
import { Plot } from "../frame/plot.js";
import { Badge, Button, Empty, Failure, Field, Notice, Page, Progress, Table, useLoad } from "../frame/parts.js";

const percent = (share) => `${Math.round(share * 100)}%`;
const signed = (value) => `${value > 0 ? "+" : ""}${value.toFixed(2)}`;

function Trial({ signals }) {
  const [name, setName] = useState(signals[0].name);
  const [text, setText] = useState({ question: "", answer: "", passage: "", gold: "" });
  const [state, setState] = useState({ read: null, error: null, busy: false });
  const input = (field) => ({ value: text[field], onInput: (event) => setText({ ...text, [field]: event.target.value }) });
  const send = async (event) => {
    event.preventDefault();
    setState({ read: null, error: null, busy: true });
    try {
      const read = await post(`/api/signals/${encodeURIComponent(name)}/read`, text);
      setState({ read, error: null, busy: false });
    } catch (error) {
      setState({ read: null, error, busy: false });
    }
  };
  const { read, error, busy } = state;
  return html`<form class="trial" onSubmit=${send}>
    <${Field} label="Signal" as="select" value=${name} onChange=${(event) => setName(event.target.value)}>${signals.map((one) => html`<option value=${one.name}>${one.name}</option>`)}</${Field}>
    <${Field} label="Question" required maxlength="4000" ...${input("question")} />
    <${Field} label="Answer to judge" as="textarea" rows="4" required maxlength="8000" ...${input("answer")} />
    <${Field} label="Passage it rests on (optional)" as="textarea" rows="3" maxlength="20000" ...${input("passage")} />
    <${Field} label="Right answer (optional)" as="textarea" rows="2" maxlength="8000" ...${input("gold")} />
    <${Button} kind="primary" type="submit" busy=${busy}>Read it</${Button}>
    <div aria-live="polite">
      <${Failure} error=${error ?? read?.error} />
      ${read && !read.error && html`<${Notice} kind=${read.reading === null ? "" : read.reading >= 0 ? "good" : "bad"}>
        ${read.reading === null ? "The signal says nothing about this answer." : `It reads ${signed(read.reading)} of -1 to +1, which adds ${signed(read.reward)} to the reward.`}</${Notice}>`}
    </div>
  </form>`;
}

// The oldest version first; `x` and `series` stay the same objects, so that a redraw of the page draws no plot anew.
function versionPlot({ name, versions }) {
  const rows = [...versions].reverse().filter((row) => row.read > 0);
  return {
    name, x: rows.map((row) => row.version),
    series: [
      { label: "candidate", values: rows.map((row) => row.mean) },
      { label: "live version then", values: rows.map((row) => row.live_mean) },
    ],
    note: rows.length ? `Of ${rows.at(-1).of} answers of version ${rows.at(-1).version} it read ${rows.at(-1).read}.` : null,
  };
}

function Versions({ signals }) {
  const plots = useMemo(() => signals.filter((one) => one.versions.length).map(versionPlot), [signals]);
  return html`<h2>Readings by version</h2>
    <p class="quiet">The mean reading of each candidate's answers to the evaluation questions, beside that of the version it was to replace.</p>
    ${!plots.length && html`<${Empty}>No version was evaluated with these signals yet.</${Empty}>`}
    <div class="plots">${plots.map((plot) => html`<${Plot} key=${plot.name} title=${plot.name} x=${plot.x} series=${plot.series} xLabel="version" zero=${true} whole=${true} note=${plot.note} />`)}</div>`;
}

export default function Signals() {
  const { data, error, reload } = useLoad("/api/signals");
  const options = (row) => Object.entries(row.options).map(([name, value]) => `${name}: ${value}`).join(", ") || "none";
  const columns = [
    { label: "Signal", header: true, cell: (row) => row.name },
    { label: "Plugin", cell: (row) => row.plugin },
    { label: "At most, of the reward", align: "end", cell: (row) => percent(row.most) },
    { label: "Options", cell: options },
    { label: "State", cell: (row) => (row.error ? html`<${Badge} kind="bad">cannot be used</${Badge}> ${row.error}` : html`<${Badge} kind="good">fine</${Badge}>`) },
  ];
  return html`<${Page} title="Signals">
    <p class="quiet">A signal judges answers by a rule of its own, beside what people chose. Signals are set in the settings file.</p>
    <${Failure} error=${error} onRetry=${reload} />
    ${!data && !error && html`<${Progress} label="Loading" />`}
    ${data && !data.signals.length && html`<${Empty}>No signal is set; people's choices alone make the reward.</${Empty}>`}
    ${data?.signals.length > 0 && html`<${Table} caption="Reward signals" rowKey=${(row) => row.name} rows=${data.signals} columns=${columns} />
      <p>All of them together make at most ${percent(data.most)} of a full reward.</p>
      <${Versions} signals=${data.signals} />
      <h2>Try one on a text</h2><${Trial} signals=${data.signals} />`}
  </${Page}>`;
}
