// Policy versions: which one answers, which wait, and what replaced what.
import { html } from "/static/vendor/ui.js";
import { Badge, Button, Empty, Failure, Page, Table, When, useLoad } from "../frame/parts.js";
import { may } from "../frame/session.js";
import { kindName, rollBack } from "./operate.js";

const EVERY_S = 3;

export default function Policies() {
  const { data, error, reload } = useLoad("/api/policies", { every: EVERY_S });
  const named = (alias) => data?.versions.find((version) => version.alias === alias);
  const [live, previous] = [named("live"), named("previous")];
  const back = may("operator") && previous && html`<${Button} onClick=${() => rollBack(live?.number, previous.number, reload)}>Roll back to version ${previous.number}</${Button}>`;
  return html`<${Page} title="Policies" wide actions=${back}>
    <${Failure} error=${error} onRetry=${reload} />
    ${!data && !error && html`<${Empty}>Loading…</${Empty}>`}
    ${data && html`<p class="quiet">Each version is a set of weights that never changes. One is live and answers new questions.</p>
      <${Versions} versions=${data.versions} />
      <h2>What replaced what</h2><${Promotions} rows=${data.promotions} />`}
  </${Page}>`;
}

/** What a version is now, in words. */
export function Standing({ version }) {
  if (version.alias === "live") return html`<${Badge} kind="live">live</${Badge}>`;
  if (version.alias === "candidate") return html`<${Badge} kind="warn">waits for approval</${Badge}>`;
  if (version.alias === "previous") return html`<${Badge}>live before</${Badge}>`;
  if (version.state === "rejected") return html`<${Badge} kind="bad">rejected</${Badge}>`;
  return html`<${Badge}>${version.state === "retired" ? "was live" : "never live"}</${Badge}>`;
}

function Versions({ versions }) {
  const columns = [
    { label: "Version", header: true, cell: (row) => html`<a class="named" href=${`/policies/${row.number}`}>version ${row.number}</a>` },
    { label: "State", cell: (row) => html`<${Standing} version=${row} />` },
    { label: "Made", cell: (row) => html`<${When} at=${row.created_at} />` },
    { label: "How", cell: (row) => kindName(row.kind) },
    { label: "From", cell: (row) => (row.parent === null ? "–" : `version ${row.parent}`) },
    { label: "Run", cell: (row) => (row.run_id ? html`<a href=${`/runs/${row.run_id}?tab=learnt`}>what it learnt from</a>` : "–") },
    { label: "Loaded", cell: (row) => (row.loaded ? "yes" : "no") },
    { label: "Answering now", align: "end", cell: (row) => row.leases },
    { label: "Canary answers", align: "end", cell: (row) => row.canary_answers },
  ];
  return html`<${Table} caption="Policy versions" columns=${columns} rows=${versions} />`;
}

const STATES = { requested: ["under way", "warn"], done: ["done", "good"], refused: ["refused", "bad"] };

/** Promotions and roll backs, the newest first. */
export function Promotions({ rows }) {
  const columns = [
    { label: "When", header: true, cell: (row) => html`<${When} at=${row.created_at} />` },
    { label: "What", cell: (row) => `${row.kind === "rollback" ? "back to" : "to"} version ${row.version}${row.replaced === null ? "" : `, from ${row.replaced}`}` },
    { label: "By", cell: (row) => row.by },
    { label: "On what grounds", cell: (row) => row.evidence },
    { label: "How it went", cell: (row) => html`<${Badge} kind=${STATES[row.state][1]}>${STATES[row.state][0]}</${Badge}> ${row.error ?? ""}` },
  ];
  return html`<${Table} caption="What replaced what" columns=${columns} rows=${rows} empty="Version 0 was live from the start." />`;
}
