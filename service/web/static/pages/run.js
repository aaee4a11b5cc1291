// One training run: how far it is, what the gate says, what it measured, said and learnt from.
import { html, useEffect, useMemo, useRef, useState } from "/static/vendor/ui.js";
import { get, post } from "../frame/api.js";
import { Markdown } from "../frame/markdown.js";
import { Plot } from "../frame/plot.js";
import { Badge, Button, Empty, Failure, LinkButton, Notice, Page, Progress, Tabs, When, toast, useLoad } from "../frame/parts.js";
import { renamePlace } from "../frame/router.js";
import { may } from "../frame/session.js";
import { Decide, Pages, RunState, act, rollBack, shareText, span, stageName } from "./operate.js";
import { Learnt } from "./learnt.js";

const AT_WORK_S = 1;
const LOG_S = 1;
const CURVES_S = 3;
const LONGEST_LOG = 400_000;

const atWork = (run) => ["queued", "running"].includes(run.state);

export default function Run({ params, query }) {
  const [every, setEvery] = useState(AT_WORK_S);
  const path = `/api/runs/${encodeURIComponent(params.id)}`;
  const { data: run, error, reload } = useLoad(path, { every });
  const chosen = query.get("tab") ?? "stages";
  const live = Boolean(run) && atWork(run);
  const wanted = run && !live ? 10 : AT_WORK_S;
  if (wanted !== every) setEvery(wanted);
  const tabs = run && [
    { id: "stages", label: "Stages", content: () => html`<${Stages} run=${run} />` },
    { id: "gate", label: "Gate", content: () => html`<${Gate} run=${run} />` },
    { id: "curves", label: "Curves", content: () => html`<${Curves} path=${path} run=${run} live=${live} />` },
    { id: "samples", label: "Samples", content: () => html`<${Samples} path=${path} run=${run} />` },
    { id: "learnt", label: "Learnt from", content: () => html`<${Learnt} path=${path} of=${query.get("of")} run=${params.id} />` },
    { id: "log", label: "Log", content: () => html`<${Log} path=${path} live=${live} />` },
  ];
  const choose = (tab) => renamePlace(`/runs/${params.id}?tab=${tab}`);
  return html`<${Page} title="Training run" wide actions=${run && html`<${Acts} run=${run} path=${path} reload=${reload} />`}>
    <${Failure} error=${error} onRetry=${reload} />
    ${!run && !error && html`<${Empty}>Loading…</${Empty}>`}
    ${run && html`<${Head} run=${run} live=${live} /><${Tabs} label="About this run" tabs=${tabs} chosen=${chosen} onChoose=${choose} />`}
  </${Page}>`;
}

function Head({ run, live }) {
  const made = run.candidate === null ? null : html`<a href=${`/policies/${run.candidate}`}>version ${run.candidate}</a>`;
  return html`<div class="run-head">
    <p class="row"><${RunState} state=${run.state} />
      <span>begun by ${run.at_schedule ? "the schedule" : run.requested_by}, <${When} at=${run.started_at ?? run.created_at} />${run.seconds === null ? "" : `, ${live ? "at work for" : "took"} ${span(run.seconds)}`}${made && html`, made ${made}`}</span></p>
    <p class="quiet">${run.reason}. It could learn from ${run.evidence.total} votes${run.evidence.simulated ? `, ${run.evidence.simulated} of them simulated` : ""}.</p>
    ${run.error && html`<div class=${`notice ${run.state === "failed" ? "bad" : "warn"}`}>${run.error}</div>`}
    ${run.progress && html`<${Progress} label=${stageName(run.progress.stage)} value=${run.progress.step} total=${run.progress.total} text=${leftText(run)} />`}
  </div>`;
}

function leftText({ progress, left_s: left }) {
  const part = progress.left_s === null ? "" : `, ${span(progress.left_s)} left of this part`;
  const whole = left === null ? "" : `, about ${span(left)} left in all`;
  return `${progress.note || "at work"}${part}${whole}`;
}

function Acts({ run, path, reload }) {
  const [deciding, setDeciding] = useState(null);
  const version = useLoad(run.state === "promoted" ? `/api/policies/${run.candidate}` : null);
  const policies = useLoad(version.data?.alias === "live" ? "/api/policies" : null);
  if (!may("operator")) return null;
  const previous = policies.data?.versions.find((one) => one.alias === "previous");
  const can = (what) => run.may.includes(what);
  const cancel = () => act(`${path}/cancel`, {
    ask: { title: "Cancel this run?", yes: "Cancel the run", no: "Let it go on", danger: true, text: "It stops within seconds. What its finished stages made is kept, and it can be resumed from there." },
    said: "The run was asked to stop.", done: reload,
  });
  const resume = () => act(`${path}/resume`, {
    ask: { title: "Resume this run?", yes: "Resume", text: "It goes on from its last finished stage, with the votes that were frozen when it began." },
    said: "The run will go on.", done: reload,
  });
  const decided = (what, said) => async (reason) => { await post(`${path}/${what}`, { reason }); toast(said); reload(); };
  return html`
    ${can("cancel") && html`<${Button} onClick=${cancel}>Cancel</${Button}>`}
    ${can("resume") && html`<${Button} kind="primary" onClick=${resume}>Resume</${Button}>`}
    ${can("reject") && html`<${Button} kind="danger" onClick=${() => setDeciding("reject")}>Reject</${Button}>`}
    ${can("approve") && html`<${Button} kind="primary" onClick=${() => setDeciding("approve")}>Approve</${Button}>`}
    ${previous && html`<${Button} onClick=${() => rollBack(run.candidate, previous.number, version.reload)}>Roll back to version ${previous.number}</${Button}>`}
    ${deciding === "approve" && html`<${Decide} title=${`Make version ${run.candidate} live?`} yes="Approve" onClose=${() => setDeciding(null)}
      text="It is loaded and tried first; then new questions are answered by it. Answers that have begun end as they are. You can go back at any time."
      onDecide=${decided("approve", `Version ${run.candidate} is on its way to being live.`)} />`}
    ${deciding === "reject" && html`<${Decide} title=${`Reject version ${run.candidate}?`} yes="Reject" danger onClose=${() => setDeciding(null)}
      text="It will never go live, and canary answers stop coming from it. The live version stays. This cannot be undone; a later run can learn the same anew."
      onDecide=${decided("reject", `Version ${run.candidate} was rejected.`)} />`}`;
}

const MARKS = { done: ["done", "good"], running: ["at work", "live"], waiting: ["waits", ""], stopped: ["not reached", ""] };

function Stages({ run }) {
  const figures = new Map(run.stages.map((stage) => [stage.stage, stage.figures]));
  return html`<ol class="stages">${run.planned.map((stage) => html`<li class="card" key=${stage.stage}>
    <h3>${stageName(stage.stage)} <${Badge} kind=${MARKS[stage.state][1]}>${MARKS[stage.state][0]}</${Badge}></h3>
    <p class="quiet">${stageTimes(stage)}</p>
    ${figures.has(stage.stage) && html`<${Figures} of=${figures.get(stage.stage)} />`}</li>`)}</ol>
    ${run.snapshot_hash && html`<p class="quiet">Snapshot <code>${run.snapshot_hash.slice(0, 16)}</code></p>`}
    <details><summary>All settings of this run</summary><div class="code"><pre tabindex="0">${JSON.stringify(run.plan, null, 2)}</pre></div></details>`;
}

function stageTimes(stage) {
  if (stage.state === "done") return html`Took ${span(stage.seconds)}, ended <${When} at=${stage.ended_at} />`;
  if (stage.usually_s !== null) return `Took ${span(stage.usually_s)} the last time`;
  return stage.state === "stopped" ? "The run ended before" : "Never done before";
}

function Figures({ of }) {
  const plain = Object.entries(of).filter(([, value]) => ["number", "string", "boolean"].includes(typeof value));
  if (!plain.length) return null;
  const shown = (value) => (typeof value === "number" ? Number(value.toPrecision(4)) : String(value));
  return html`<details><summary>What it measured</summary><dl class="figures">${plain.map(([name, value]) => html`<div><dt>${name.replaceAll("_", " ")}</dt><dd>${shown(value)}</dd></div>`)}</dl></details>`;
}

function Gate({ run }) {
  if (!run.gate) return html`<${Empty}>The gate has not spoken: the candidate was not examined yet.</${Empty}>`;
  const { passed, rules, sentence } = run.gate;
  return html`<div><${Notice} kind=${passed ? "good" : "bad"}>${sentence}</${Notice}>
    <ul class="cards">${rules.map((rule) => html`<li class="card" key=${rule.name}>
      <h3>${rule.name} <${Badge} kind=${rule.passed ? "good" : "bad"}>${rule.passed ? "passed" : "not passed"}</${Badge}></h3>
      <p>${rule.asked}</p><p><strong>${rule.found}</strong></p></li>`)}</ul></div>`;
}

function Curves({ path, run, live }) {
  const { data, error } = useLoad(`${path}/curves`, { every: live ? CURVES_S : 0 });
  const key = JSON.stringify((data ?? []).map((curve) => [curve.id, curve.x.length, curve.x.at(-1)]));
  const plots = useMemo(() => data ?? [], [key]);
  if (error) return html`<${Failure} error=${error} />`;
  if (!plots.length) return html`<${Empty}>${data ? "Nothing was measured yet." : "Loading…"}</${Empty}>`;
  return html`<div>${run.win_rate && html`<p>Win rate against the version that was live: <strong>${shareText(run.win_rate)}</strong> of held-out questions.</p>`}
    <div class="plots">${plots.map((curve) => html`<${Plot} key=${curve.id} title=${curve.title} note=${curve.note} x=${curve.x} series=${curve.series} xLabel=${curve.step} />`)}</div>
    ${run.has_plot && html`<details class="picture"><summary>As a picture, to keep</summary>
      <${LinkButton} href=${`${path}/plot.png`} download=${`run-${run.id}.png`}>Download</${LinkButton}>
      <img src=${`${path}/plot.png`} alt="All curves of this run; the tables above hold the same figures" loading="lazy" /></details>`}</div>`;
}

function Samples({ path, run }) {
  return html`<p class="quiet">Questions kept out of training, answered by the version that was live and by the candidate. Likeness to the right answer goes from 0 to 100.</p>
    <${Pages} path=${`${path}/samples`} label="Samples" empty="No samples yet." row=${(row) => html`<h3>${row.question}</h3>
      <div class="sides"><section><h4>Live then</h4><${Markdown} text=${row.live} /><p class="hint">likeness ${Math.round(row.chrf_live)}${score(row.reward_live)}</p></section>
      <section><h4>Candidate${run.candidate === null ? "" : ` (version ${run.candidate})`}</h4><${Markdown} text=${row.candidate} /><p class="hint">likeness ${Math.round(row.chrf_candidate)}${score(row.reward_candidate)}</p></section></div>
      <details><summary>The right answer</summary><${Markdown} text=${row.gold} /></details>`} />`;
}

const score = (value) => (value === null ? "" : `, score ${value.toFixed(2)}`);

function Log({ path, live }) {
  const [text, setText] = useState(null);
  const [error, setError] = useState(null);
  const end = useRef(null);
  const box = useRef(null);
  useEffect(() => {
    let over = false;
    let reading = false;
    const read = async () => {
      if (reading) return;
      reading = true;
      try {
        const part = await get(end.current === null ? `${path}/log` : `${path}/log?after=${end.current}`);
        if (over) return;
        const anew = end.current !== null && part.begins_at < end.current;
        end.current = part.ends_at;
        setText((old) => ((anew ? "" : old ?? "") + part.text).slice(-LONGEST_LOG));
        setError(null);
      } catch (failed) {
        if (!over) setError(failed);
      } finally {
        reading = false;
      }
    };
    read();
    const again = live && setInterval(() => { if (!document.hidden) read(); }, LOG_S * 1000);
    return () => { over = true; clearInterval(again); };
  }, [path, live]);
  useEffect(() => { if (box.current) box.current.scrollTop = box.current.scrollHeight; }, [text]);
  if (error) return html`<${Failure} error=${error} />`;
  if (!text) return html`<${Empty}>${text === null ? "Loading…" : "The log is empty."}</${Empty}>`;
  return html`<div class="code"><pre class="log" ref=${box} tabindex="0" role="log" aria-label="The worker's log">${text}</pre></div>`;
}
