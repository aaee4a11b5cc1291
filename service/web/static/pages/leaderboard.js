// Which version people prefer, how sure that is, and whether sides or length played a part.
import { html, useState } from "/static/vendor/ui.js";
import { Badge, Empty, Failure, Field, Notice, Page, Table, useLoad } from "../frame/parts.js";
import { may } from "../frame/session.js";
import { ShareBar, percent, shareText } from "./operate.js";

const PERIODS = [["", "All time"], ["7", "The last 7 days"], ["30", "The last 30 days"], ["90", "The last 90 days"]];

export default function Leaderboard() {
  const [raters, setRaters] = useState("people");
  const [days, setDays] = useState("");
  const [equal, setEqual] = useState(false);
  const { data, error, reload } = useLoad(`/api/leaderboard?raters=${raters}${days && `&days=${days}`}`);
  return html`<${Page} title="Leaderboard" wide>
    <form class="row filters" onSubmit=${(event) => event.preventDefault()}>
      <${Field} as="select" label="Votes by" value=${raters} onChange=${(event) => setRaters(event.target.value)}>
        <option value="people">people</option><option value="simulated">simulated raters</option></${Field}>
      <${Field} as="select" label="Given in" value=${days} onChange=${(event) => setDays(event.target.value)}>
        ${PERIODS.map(([value, label]) => html`<option value=${value}>${label}</option>`)}</${Field}>
      <${Field} type="checkbox" label="As if all answers were equally long" checked=${equal} onChange=${(event) => setEqual(event.target.checked)} />
    </form>
    <${Failure} error=${error} onRetry=${reload} />
    ${!data && !error && html`<${Empty}>Counting the votes…</${Empty}>`}
    ${data && html`<${Bias} bias=${data.side_bias} /><${Board} data=${data} equal=${equal} /><${Explained} data=${data} equal=${equal} />`}
  </${Page}>`;
}

function Bias({ bias }) {
  if (!bias) return null;
  const said = `The answer shown first is chosen in ${shareText(bias.first)} of ${bias.votes} votes with a winner.`;
  return bias.alarm ? html`<div class="notice warn" role="status"><p><strong>Sides matter too much.</strong> ${bias.alarm}</p><p>${said}</p></div>`
    : html`<p class="quiet">${said} That is as it should be.</p>`;
}

function Board({ data, equal }) {
  if (!data.rows.length) {
    const whose = data.raters === "people" ? "People have" : "Simulated raters have";
    return html`<${Empty}>${whose} not compared answers of two versions ${data.days ? "in this time" : "yet"}.</${Empty}>`;
  }
  const share = (row) => (equal ? row.at_equal_length : row.share);
  const rank = (row) => (equal ? row.rank_at_equal_length : row.rank);
  const rows = [...data.rows].sort((one, other) => share(other).value - share(one).value);
  const name = (row) => (may("reviewer") ? html`<a class="named" href=${`/policies/${row.version}`}>version ${row.version}</a>` : `version ${row.version}`);
  const columns = [
    { label: "Place", align: "end", cell: rank },
    { label: "Version", header: true, cell: (row) => html`${name(row)}${row.version === data.reference ? html` <${Badge}>measure</${Badge}>` : ""}` },
    { label: `Wins against version ${data.reference}`, cell: (row) => (row.version === data.reference ? "–" : html`<span class="share">${shareText(share(row))}</span><${ShareBar} ...${share(row)} />`) },
    { label: "Votes", align: "end", cell: (row) => row.votes },
    { label: "Won", align: "end", cell: (row) => row.wins },
    { label: "Lost", align: "end", cell: (row) => row.losses },
    { label: "Equal", align: "end", cell: (row) => row.ties },
    ...(equal ? [] : [{ label: "Points", align: "end", cell: (row) => `${Math.round(row.points.value)} (${Math.round(row.points.low)} to ${Math.round(row.points.high)})` }]),
  ];
  return html`<${Table} caption=${equal ? "Versions as if all answers were equally long" : "Versions by people's votes"} columns=${columns} rows=${rows} rowKey=${(row) => row.version_id} />`;
}

function Explained({ data, equal }) {
  const effect = data.length_effect;
  return html`${data.apart.length > 0 && html`<${Notice}>Not shown, since no vote joins them to version ${data.reference}: ${data.apart.map((number) => `version ${number}`).join(", ")}.</${Notice}>`}
    ${effect !== null && html`<p>${lengthSentence(effect)}${equal ? " This view takes that out." : ""}</p>`}
    <details><summary>How this is counted</summary>
      <p>${data.votes} votes in force count, ${data.same_version} of them on two answers of one version, which tell only of sides. Skipped and withdrawn votes, hidden checks, and votes of people who could know the versions do not.</p>
      <p>The share is what a version is expected to win against version ${data.reference ?? "…"} by all votes together, also those against others (Bradley-Terry); equal answers and two bad ones count half. In brackets stands where it lies with 95% certainty, by drawing the votes anew 1,000 times. Versions whose brackets overlap may share a place. 400 points more mean ten wins to one.</p>
      <p>For equal length, a regression takes out what longer answers gain by their length alone.</p></details>`;
}

function lengthSentence(effect) {
  if (Math.abs(effect - 0.5) < 0.02) return "Length hardly matters to voters.";
  return `Of two versions that are equally good, an answer twice as long as the other is chosen in ${percent(effect)} of votes.`;
}
