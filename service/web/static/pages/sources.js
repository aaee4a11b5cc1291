// Data sources: how they are, what they brought and what they could not, and setting them up.
import { html, useState } from "/static/vendor/ui.js";
import { post, put, remove } from "../frame/api.js";
import { Badge, Button, Dialog, Empty, Failure, Field, Notice, Page, Progress, Table, When, confirmed, toast, useLoad } from "../frame/parts.js";
import { go } from "../frame/router.js";

const STATUS = { new: ["", "not synced yet"], syncing: ["warn", "syncing"], fine: ["good", "fine"], failed: ["bad", "failed"] };
const ORIGINS = { file: "set in the settings file", page: "set on this page", gone: "no longer in use" };
const EVERY_S = 4;

function Status({ source }) {
  const [kind, words] = STATUS[source.status];
  return html`<${Badge} kind=${kind}>${words}${source.read_so_far !== null ? `, ${source.read_so_far} read` : ""}</${Badge}>`;
}

const changes = (report) => `${report.added} added, ${report.changed} changed, ${report.removed} removed, ${report.unchanged} unchanged`;

function Rejected({ items, count }) {
  if (!count) return null;
  return html`<details><summary>${count === 1 ? "1 item was" : `${count} items were`} rejected</summary>
    <ul>${items.map(({ where, reason }) => html`<li>${where && html`<strong>${where}</strong>`} ${reason}</li>`)}
      ${items.length < count && html`<li class="quiet">and ${count - items.length} more, on the page of the source</li>`}</ul></details>`;
}

function Report({ report }) {
  return html`<p><${When} at=${report.finished_at ?? report.started_at} />: ${changes(report)}</p>
    ${report.waiting && html`<p class="quiet">It waits, then goes on: ${report.waiting}</p>`}
    ${report.error && html`<div class="failure"><p>${report.error}</p></div>`}
    <${Rejected} items=${report.rejected} count=${report.rejected_count} />`;
}

/** Buttons that every source has: sync now, look, change, remove. */
function Actions({ source, plugins, onChanged }) {
  const [dialog, setDialog] = useState(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const path = `/api/sources/${encodeURIComponent(source.name)}`;
  const sync = async () => {
    setBusy(true);
    setError(null);
    try { await post(`${path}/sync`); toast(`${source.name} is being synced.`); onChanged(); } catch (problem) { setError(problem); }
    setBusy(false);
  };
  const take = async () => {
    const text = `All that ${source.name} brought, ${source.documents} documents and ${source.gold_answers} right answers, goes with it.`;
    if (!await confirmed({ title: `Remove ${source.name}?`, text, yes: "Remove", danger: true })) return;
    try { await remove(path); toast(`${source.name} was removed.`); onChanged(true); } catch (problem) { setError(problem); }
  };
  const gone = source.origin === "gone";
  return html`<${Failure} error=${error} /><div class="row">
      ${!gone && html`<${Button} kind="primary" busy=${busy || source.status === "syncing"} onClick=${sync}>Sync now</${Button}>
        <${Button} onClick=${() => setDialog("look")}>Test and preview</${Button}>`}
      ${source.origin === "page" && html`<${Button} onClick=${() => setDialog("change")}>Change…</${Button}>`}
      ${source.origin !== "file" && html`<${Button} onClick=${take}>Remove…</${Button}>`}
    </div>
    ${dialog === "look" && html`<${Dialog} title=${`What ${source.name} brings`} onClose=${() => setDialog(null)}><${Look} path=${`${path}/preview`} body=${{}} /></${Dialog}>`}
    ${dialog === "change" && html`<${SourceForm} plugins=${plugins} source=${source} onClose=${() => setDialog(null)} onDone=${() => { setDialog(null); onChanged(); }} />`}`;
}

/** Tries a source at once and shows its first records. */
function Look({ path, body }) {
  const [state, setState] = useState({ looked: null, error: null, begun: false });
  const look = async () => {
    try { const looked = await post(path, body); setState({ looked, error: null, begun: true }); } catch (error) { setState({ looked: null, error, begun: true }); }
  };
  if (!state.begun) { state.begun = true; look(); }
  const { looked, error } = state;
  if (error) return html`<${Failure} error=${error} />`;
  if (!looked) return html`<${Progress} label="Reading the source" />`;
  return html`${looked.error ? html`<${Failure} error=${looked.error} />` : html`<${Notice} kind="good">The source can be read. These are its first records; nothing is stored.</${Notice}>`}
    ${looked.records.map((record) => html`<article class="record" key=${record.kind + record.id}><h3>${record.title} <${Badge}>${record.kind}</${Badge}></h3>
      <p class="quiet">${record.id}${record.readers.length ? `, for ${record.readers.join(", ")}` : ""}</p><p class="excerpt">${record.text}</p></article>`)}
    ${!looked.error && !looked.records.length && html`<p>It holds no record that can be used.</p>`}
    <${Rejected} items=${looked.rejected} count=${looked.rejected.length} />`;
}

const SECRET_HINT = "The secret itself is not kept here: write env:HEED_SECRET_NAME, or file:NAME for a file in /run/secrets.";

const READ = {
  number: Number,
  decimal: Number,
  lines: (text) => text.split("\n").map((line) => line.trim()).filter(Boolean),
};

/** The options of the settings: those typed are read by their kind, the others stay as they were. */
function optionsOf(fields, typed, kept) {
  const read = ({ name, kind }) => {
    const text = typed[name];
    if (text === undefined) return kept[name];
    return text === "" ? undefined : READ[kind]?.(text) ?? text;
  };
  return Object.fromEntries(fields.map((one) => [one.name, read(one)]));
}

function OptionInput({ option, value, onValue }) {
  const { name, help, kind, required, choices } = option;
  const label = name + (required ? "" : " (optional)");
  if (kind === "switch") return html`<${Field} label=${label} hint=${help} type="checkbox" checked=${value ?? option.default ?? false} onChange=${(event) => onValue(event.target.checked)} />`;
  const type = ({ target }) => onValue(target.value);
  if (kind === "choice") return html`<${Field} label=${label} hint=${help} as="select" value=${value ?? option.default ?? ""} required=${required} onChange=${type}>
    ${required && html`<option value="">Choose one</option>`}${choices.map((one) => html`<option value=${one}>${one}</option>`)}</${Field}>`;
  const shared = { label, hint: kind === "secret" ? `${help} ${SECRET_HINT}` : help, required, autocomplete: "off", spellcheck: "false" };
  if (kind === "lines") return html`<${Field} ...${shared} hint=${`${help} One a line.`} as="textarea" rows="3" value=${Array.isArray(value) ? value.join("\n") : value ?? ""} placeholder=${(option.default ?? []).join("\n")} onInput=${type} />`;
  const number = kind === "number" || kind === "decimal";
  return html`<${Field} ...${shared} type=${number ? "number" : "text"} step=${number ? (kind === "decimal" ? "any" : "1") : undefined} value=${value ?? ""} placeholder=${option.default ?? ""} onInput=${type} />`;
}

/** A form made of the plugin's options, to make a source or to change one. */
function SourceForm({ plugins, source = null, folders = [], onClose, onDone }) {
  const [name, setName] = useState(source?.name ?? "");
  const [plugin, setPlugin] = useState(source?.plugin ?? plugins[0]?.name);
  const [purpose, setPurpose] = useState(source?.purpose ?? "training");
  // As typed: a number that is read at each key loses the "0." that 0.05 begins with.
  const [typed, setTyped] = useState({});
  const [tried, setTried] = useState({ times: 0, body: null });
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  if (!plugins.length) return html`<${Dialog} title="Add a source" onClose=${onClose}><p>No installed plugin reads sources. The page Plugins says what is wrong with those there are.</p></${Dialog}>`;
  const chosen = plugins.find((one) => one.name === plugin);
  const fields = chosen?.options ?? [];
  const kept = plugin === source?.plugin ? source.options : {};
  const given = optionsOf(fields, typed, kept);
  const save = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      if (source) await put(`/api/sources/${encodeURIComponent(source.name)}/settings`, { plugin, purpose, options: given, generation: source.generation });
      else await post("/api/sources", { name, plugin, purpose, options: given });
      toast(source ? `${source.name} was changed.` : `${name} was added; it is read at the next sync.`);
      onDone();
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${source ? `Change ${source.name}` : "Add a source"} onClose=${onClose}><form onSubmit=${save}>
    ${!source && html`<${Field} label="Name" hint="Small letters, digits, - and _" value=${name} required pattern="[a-z0-9][a-z0-9_\\-]*" maxlength="63" autocomplete="off" onInput=${(event) => setName(event.target.value)} />`}
    <${Field} label="Plugin" hint=${chosen?.help} as="select" value=${plugin} onChange=${(event) => { setPlugin(event.target.value); setTyped({}); }}>${plugins.map((one) => html`<option value=${one.name}>${one.name}</option>`)}</${Field}>
    <${Field} label="Its right answers are for" as="select" value=${purpose} onChange=${(event) => setPurpose(event.target.value)}>
      <option value="training">training</option><option value="evaluation">evaluation only</option></${Field}>
    <fieldset><legend>Options of ${plugin}</legend>${fields.map((option) => html`<${OptionInput} key=${plugin + option.name} option=${option} value=${typed[option.name] ?? kept[option.name]}
      onValue=${(value) => setTyped((old) => ({ ...old, [option.name]: value }))} />`)}
      ${fields.some(({ kind }) => kind === "path") && folders.length > 0 && html`<p class="hint">It may read what lies in ${folders.join(" or ")}.</p>`}
      ${!fields.length && html`<p class="quiet">It takes none.</p>`}</fieldset>
    <${Failure} error=${error} />
    <div class="row end"><${Button} onClick=${() => setTried(({ times }) => ({ times: times + 1, body: { name: name || "trial", plugin, purpose, options: given } }))}>Test and preview</${Button}
      ><${Button} kind="primary" type="submit" busy=${busy}>${source ? "Save" : "Add"}</${Button}></div>
    ${tried.body && html`<section aria-label="Preview"><${Look} key=${tried.times} path="/api/preview-source" body=${tried.body} /></section>`}
  </form></${Dialog}>`;
}

function SourceCard({ source, plugins, onChanged }) {
  return html`<li class="card"><h2 class="row"><a href=${`/sources/${source.name}`}>${source.name}</a><${Status} source=${source} /></h2>
    <p class="quiet">${source.plugin && `${source.plugin}, `}${ORIGINS[source.origin]}: ${source.documents} documents, ${source.gold_answers} right answers${source.questions ? `, ${source.questions} questions` : ""}</p>
    ${source.report ? html`<${Report} report=${source.report} />` : html`<p>It has not been read yet.</p>`}
    <${Actions} source=${source} plugins=${plugins} onChanged=${onChanged} /></li>`;
}

function AllSources() {
  const { data, error, reload } = useLoad("/api/sources", { every: EVERY_S });
  const [adding, setAdding] = useState(false);
  const actions = html`<${Button} kind="primary" onClick=${() => setAdding(true)} disabled=${!data}>Add a source</${Button}>`;
  return html`<${Page} title="Sources" actions=${actions}>
    <${Failure} error=${error} onRetry=${reload} />
    ${data && html`<p class="quiet">${data.next_sync ? html`All are synced next: <${When} at=${data.next_sync} />` : "No schedule is set; sync by hand."}</p>
      ${data.sources.length ? html`<ul class="cards">${data.sources.map((source) => html`<${SourceCard} key=${source.name} source=${source} plugins=${data.plugins} onChanged=${reload} />`)}</ul>`
    : html`<${Empty}>There is no source yet. Add one, so that answers can rest on your documents.</${Empty}>`}`}
    ${!data && !error && html`<${Progress} label="Loading" />`}
    ${adding && html`<${SourceForm} plugins=${data.plugins} folders=${data.path_folders} onClose=${() => setAdding(false)} onDone=${() => { setAdding(false); reload(); }} />`}
  </${Page}>`;
}

function OneSource({ name }) {
  const { data, error, reload } = useLoad(`/api/sources/${encodeURIComponent(name)}`, { every: EVERY_S });
  const all = useLoad("/api/sources");
  const changed = (removed) => (removed ? go("/sources") : reload());
  const source = data?.source;
  const options = Object.entries(source?.options ?? {}).map(([id, value]) => ({ id, value }));
  return html`<${Page} title=${name} actions=${html`<a href="/sources">All sources</a>`}>
    <${Failure} error=${error} onRetry=${reload} />
    ${source && html`<p class="row"><${Status} source=${source} /><span class="quiet">${source.plugin && `${source.plugin}, `}${ORIGINS[source.origin]}${source.changed_by ? ` by ${source.changed_by}` : ""}</span></p>
      <p>${source.documents} documents, ${source.gold_answers} right answers${source.questions ? `, ${source.questions} questions` : ""}${source.purpose === "evaluation" ? ", for evaluation only" : ""}</p>
      <${Actions} source=${source} plugins=${all.data?.plugins ?? []} onChanged=${changed} />
      <h2>Options</h2>
      <${Table} caption="Options" rows=${options} empty="It has none." columns=${[{ label: "Option", header: true, cell: (row) => row.id }, { label: "Value", cell: (row) => (typeof row.value === "string" ? row.value : JSON.stringify(row.value)) }]} />
      <h2>Last syncs</h2>
      ${data.reports.length ? html`<ul class="cards">${data.reports.map((report) => html`<li class="card" key=${report.started_at}><${Report} report=${report} /></li>`)}</ul>` : html`<${Empty}>It has not been read yet.</${Empty}>`}`}
    ${!data && !error && html`<${Progress} label="Loading" />`}
  </${Page}>`;
}

export default function Sources({ params }) {
  return params.name ? html`<${OneSource} key=${params.name} name=${params.name} />` : html`<${AllSources} />`;
}
