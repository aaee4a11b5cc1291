// Training: what runs and ran, what comes next, and how the win rate went.
import { html, useMemo, useState } from "/static/vendor/ui.js";
import { get, post } from "../frame/api.js";
import { Plot } from "../frame/plot.js";
import { Button, Empty, Failure, Notice, Page, Progress, Table, When, confirmed, toast, useLoad } from "../frame/parts.js";
import { go } from "../frame/router.js";
import { may } from "../frame/session.js";
import { RunState, shareText, span, stageName } from "./operate.js";

const AT_WORK_S = 1;
const IDLE_S = 10;

export default function Runs() {
  const [every, setEvery] = useState(IDLE_S);
  const { data, error, reload } = useLoad("/api/runs", { every });
  const [older, setOlder] = useState({ rows: [], next: null });
  const newest = data?.runs ?? [];
  const busy = newest.find((run) => ["queued", "running"].includes(run.state));
  const wanted = busy ? AT_WORK_S : IDLE_S;
  if (wanted !== every) setEvery(wanted);
  const seen = new Set(newest.map((run) => run.id));
  const runs = [...newest, ...older.rows.filter((run) => !seen.has(run.id))];
  const next = older.rows.length ? older.next : data?.next;
  const readOlder = async () => {
    const page = await get(`/api/runs?after=${encodeURIComponent(next)}`);
    setOlder({ rows: [...older.rows, ...page.runs], next: page.next });
  };
  return html`<${Page} title="Training" wide actions=${may("operator") && html`<${Start} busy=${busy} />`}>
    <${Failure} error=${error} onRetry=${reload} />
    ${data && html`<${Outlook} ...${data} busy=${busy} />`}
    ${busy && html`<${AtWork} run=${busy} />`}
    ${data && (runs.length ? html`<${List} runs=${runs} />` : html`<${Empty}>Nothing was trained yet.</${Empty}>`)}
    ${next && html`<p class="more"><${Button} onClick=${readOlder}>Show older runs</${Button}></p>`}
    <${WinRates} runs=${runs} />
  </${Page}>`;
}

function Start({ busy }) {
  const start = async () => {
    const yes = await confirmed({
      title: "Train now?", yes: "Train now",
      text: "A run learns from everything people have said so far, and takes a while. Answers go on meanwhile, perhaps a little slower. Its result only goes live if it passes the gate.",
    });
    if (!yes) return;
    try {
      const run = await post("/api/runs", { reason: "asked for on the page" });
      go(`/runs/${run.id}`);
    } catch (error) {
      toast(error.message, { seconds: 12 });
    }
  };
  return html`<${Button} kind="primary" disabled=${Boolean(busy)} onClick=${start}>Train now</${Button}>`;
}

function Outlook({ schedule, evidence, busy }) {
  const { comparisons, thumbs, corrections } = evidence;
  const simulated = comparisons.simulated ? ` (${comparisons.simulated} of them simulated)` : "";
  const enough = schedule.new_comparisons >= schedule.needed;
  const due = schedule.next
    ? html`The next check is <${When} at=${schedule.next} />; it starts a run if there are ${schedule.needed} new votes.`
    : "No runs are scheduled; they begin when somebody asks.";
  return html`<${Notice} kind=${enough && !busy ? "good" : ""}>
    <p>${schedule.new_comparisons} new ${schedule.new_comparisons === 1 ? "vote" : "votes"} since the last run learnt. ${due}</p>
    <p class="quiet">In all ${comparisons.total} votes between two answers${simulated}, ${thumbs.total} thumbs, ${corrections} corrected answers.</p>
  </${Notice}>`;
}

function AtWork({ run }) {
  const { progress } = run;
  return html`<section class="card at-work" aria-label="At work now">
    <h2><a href=${`/runs/${run.id}`}>${run.state === "queued" ? "A run waits to begin" : "A run is at work"}</a></h2>
    ${progress && html`<${Progress} label=${stageName(progress.stage)} value=${progress.step} total=${progress.total}
      text=${`${progress.note || "at work"}${progress.left_s === null ? "" : `, ${span(progress.left_s)} left of this part`}`} />`}
  </section>`;
}

function List({ runs }) {
  const columns = [
    { label: "Run", header: true, cell: (run) => html`<a class="named" href=${`/runs/${run.id}`}><${When} at=${run.started_at ?? run.created_at} /></a>` },
    { label: "State", cell: (run) => html`<${RunState} state=${run.state} />` },
    { label: "Begun by", cell: (run) => (run.at_schedule ? "the schedule" : run.requested_by) },
    { label: "Why", cell: (run) => run.reason },
    { label: "Took", align: "end", cell: (run) => span(run.seconds) },
    { label: "Made", cell: (run) => (run.candidate === null ? "–" : html`<a href=${`/policies/${run.candidate}`}>version ${run.candidate}</a>`) },
    { label: "Wins against the live version", cell: (run) => (run.win_rate ? shareText(run.win_rate) : run.error ?? "–") },
  ];
  return html`<${Table} caption="Training runs" columns=${columns} rows=${runs} />`;
}

function WinRates({ runs }) {
  const judged = runs.filter((run) => run.win_rate).reverse();
  const key = judged.map((run) => run.id).join();
  const given = useMemo(() => ({
    x: judged.map((_, at) => at + 1),
    series: [{
      label: "share won", values: judged.map((run) => run.win_rate.value),
      low: judged.map((run) => run.win_rate.low), high: judged.map((run) => run.win_rate.high),
    }],
  }), [key]);
  if (judged.length < 2) return null;
  return html`<${Plot} title="Share of held-out questions won against the version that was live" xLabel="run" ...${given}
    note="Each point is a run, the newest at the right; the band is its interval of 95%. Above 0.5 the candidate was better." />`;
}
