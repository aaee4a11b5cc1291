// One policy version: what it is now, where it comes from, and what it replaced.
import { html } from "/static/vendor/ui.js";
import { Button, Empty, Failure, Page, When, useLoad } from "../frame/parts.js";
import { may } from "../frame/session.js";
import { act, kindName, rollBack } from "./operate.js";
import { Promotions, Standing } from "./policies.js";

const EVERY_S = 3;

export default function Policy({ params }) {
  const { data, error, reload } = useLoad(`/api/policies/${encodeURIComponent(params.id)}`, { every: EVERY_S });
  return html`<${Page} title=${data ? `Version ${data.number}` : "Version"} wide actions=${data && may("operator") && html`<${Acts} version=${data} reload=${reload} />`}>
    <${Failure} error=${error} onRetry=${reload} />
    ${!data && !error && html`<${Empty}>Loading…</${Empty}>`}
    ${data && html`<p class="row"><${Standing} version=${data} /><span>${kindName(data.kind)}, made <${When} at=${data.created_at} /></span></p>
      <p>It gave ${data.answers} ${data.answers === 1 ? "answer" : "answers"} so far${data.canary_answers ? `, ${data.canary_answers} of them as a canary` : ""}; ${data.leases} ${data.leases === 1 ? "is" : "are"} being given now.</p>
      <h2>Where it comes from</h2><${Line} line=${data.line} />
      <h2>What replaced what</h2><${Promotions} rows=${data.promotions} />
      <p class="quiet">Its name for machines: <code>${data.id}</code></p>`}
  </${Page}>`;
}

function Acts({ version, reload }) {
  const policies = useLoad(version.alias === "live" ? "/api/policies" : null);
  const previous = policies.data?.versions.find((one) => one.alias === "previous");
  if (previous) return html`<${Button} onClick=${() => rollBack(version.number, previous.number, reload)}>Roll back to version ${previous.number}</${Button}>`;
  if (version.alias === "live" || version.state === "rejected") return null;
  const promote = () => act(`/api/policies/${version.id}/promote`, {
    ask: {
      title: `Make version ${version.number} live?`, yes: "Make it live",
      text: "It is loaded and tried first; then new questions are answered by it. Answers that have begun end as they are. You can go back at any time.",
    },
    said: `Version ${version.number} is on its way to being live.`, done: reload,
  });
  return html`<${Button} kind="primary" onClick=${promote}>Make it live</${Button}>`;
}

function Line({ line }) {
  return html`<ol class="cards line">${line.map((one, at) => html`<li class="card" key=${one.id}>
    <h3>${at === 0 ? `Version ${one.number}` : html`<a href=${`/policies/${one.number}`}>Version ${one.number}</a>`} <span class="quiet">${kindName(one.kind)}</span></h3>
    ${one.run_id ? html`<${Source} one=${one} />` : html`<p class="quiet">The model that everything starts from; people's words are not in it.</p>`}</li>`)}</ol>`;
}

function Source({ one }) {
  const to = (kind) => `/runs/${one.run_id}?tab=learnt&of=${kind}`;
  const { counts } = one;
  const byVotes = one.kind !== "sft";
  return html`<p>Trained by <a href=${`/runs/${one.run_id}`}>the run of <${When} at=${one.trained_at} /></a>${counts ? " on:" : ", whose files are no longer there."}</p>
    ${counts && html`<ul class="row links">
      ${byVotes && html`<li><a href=${to("votes")}>${counts.comparisons} votes</a></li><li><a href=${to("thumbs")}>${counts.thumbs ?? 0} thumbs</a></li>`}
      <li><a href=${to("gold-answers")}>${counts.demonstrations} right answers</a></li><li><a href=${to("documents")}>documents</a></li></ul>
      <p class="quiet">Snapshot <code>${one.snapshot_hash?.slice(0, 16)}</code></p>`}`;
}
