// Plugins: what each brings, how it is doing, and its switch.
import { html, useState } from "/static/vendor/ui.js";
import { post } from "../frame/api.js";
import { Badge, Button, Empty, Failure, Page, Progress, When, confirmed, toast, useLoad } from "../frame/parts.js";

const ORIGINS = { "built-in": "comes with Heed", installed: "installed", file: "a file in the folder of plugins" };
const seconds = (value) => (value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`);

function State({ plugin }) {
  if (plugin.error) return html`<${Badge} kind="bad">cannot be used</${Badge}>`;
  if (!plugin.on) return html`<${Badge} kind="warn">switched off</${Badge}>`;
  return plugin.failures_in_a_row ? html`<${Badge} kind="warn">failing</${Badge}>` : html`<${Badge} kind="good">on</${Badge}>`;
}

function Figures({ plugin }) {
  if (!plugin.calls) return html`<p class="quiet">It was not called yet.</p>`;
  const memory = plugin.peak_mb ? ` It has used up to ${plugin.peak_mb} MB of memory.` : "";
  return html`<p>${plugin.calls} calls, the last <${When} at=${plugin.called_at} />; ${seconds(plugin.mean_s)} on average, ${seconds(plugin.slowest_s)} at most (${plugin.slowest_call}).${memory}</p>
    ${plugin.failures > 0 && html`<p>It failed ${plugin.failures} times, the last ${plugin.failures_in_a_row} in a row.</p>`}`;
}

function Plugin({ plugin, onChanged }) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const turn = async () => {
    const used = plugin.used_by.length ? `It is used by ${plugin.used_by.join(", ")}.` : "Nothing uses it now.";
    if (plugin.on && !await confirmed({ title: `Switch ${plugin.name} off?`, text: `${used} What a switched-off plugin would do is left out.`, yes: "Switch off", danger: true })) return;
    setBusy(true);
    setError(null);
    try {
      await post(`/api/plugins/${encodeURIComponent(plugin.name)}/switch`, { on: !plugin.on });
      toast(`${plugin.name} was switched ${plugin.on ? "off" : "on"}.`);
      onChanged();
    } catch (problem) {
      setError(problem);
    }
    setBusy(false);
  };
  return html`<li class="card"><h2 class="row">${plugin.name}<${State} plugin=${plugin} /></h2>
    <p class="quiet">${ORIGINS[plugin.origin]}${plugin.version && `, version ${plugin.version}`}${plugin.used_by.length > 0 && `; used by ${plugin.used_by.join(", ")}`}</p>
    ${plugin.error && html`<${Failure} error=${plugin.error} />`}
    ${!plugin.on && html`<p>Switched off: ${plugin.off_reason}${plugin.switched_at && html`, <${When} at=${plugin.switched_at} />`}</p>`}
    <ul>${plugin.brings.map(({ kind, name, help }) => html`<li key=${kind + name}><strong>${name}</strong> <${Badge}>${kind}</${Badge}> ${help}</li>`)}</ul>
    <${Figures} plugin=${plugin} />
    ${plugin.last_error && html`<details><summary>Last error, <${When} at=${plugin.failed_at} /></summary><p class="excerpt">${plugin.last_error}</p></details>`}
    <${Failure} error=${error} />
    <${Button} busy=${busy} onClick=${turn}>Switch ${plugin.name} ${plugin.on ? "off…" : "on"}</${Button}></li>`;
}

export default function Plugins() {
  const { data, error, reload } = useLoad("/api/plugins");
  return html`<${Page} title="Plugins">
    <${Failure} error=${error} onRetry=${reload} />
    ${!data && !error && html`<${Progress} label="Loading" />`}
    ${data && html`<p class="quiet">Python files in ${data.folder} are plugins, as are installed packages. One that fails ${data.most_failures} times in a row is switched off.</p>
      ${data.plugins.length ? html`<ul class="cards">${data.plugins.map((plugin) => html`<${Plugin} key=${plugin.name + plugin.error} plugin=${plugin} onChanged=${reload} />`)}</ul>`
    : html`<${Empty}>No plugin was found; heed plugins new writes one.</${Empty}>`}`}
  </${Page}>`;
}
