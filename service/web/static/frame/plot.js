// Curves, drawn by uPlot, with the same figures as a table for whoever does not see them.
import { html, useEffect, useRef } from "/static/vendor/ui.js";
import { uPlot } from "/static/vendor/plot.js";

const HEIGHT = 220;
const COLOURS = ["--series-1", "--series-2", "--series-3", "--series-4"];
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
const MOST_TABLE_ROWS = 60;
const WHOLE_STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

// A canvas knows no variables, so that the browser is asked what they stand for.
function colour(name, share = 100) {
  const probe = document.body.appendChild(document.createElement("span"));
  probe.style.color = `color-mix(in srgb, var(${name}) ${share}%, transparent)`;
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

// uPlot counts days in the reader's zone otherwise, where a day may begin on the date before.
const inUtc = (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC");

function options(box, { series, xLabel, zero, days, whole }) {
  const ink = colour("--quiet");
  const axis = { stroke: ink, grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const drawn = [{ label: xLabel }];
  const bands = [];
  for (const [at, one] of series.entries()) {
    const name = COLOURS[at % COLOURS.length];
    drawn.push({ label: one.label, stroke: colour(name), width: 2, dash: DASHES[at % DASHES.length], spanGaps: true, points: { show: one.values.length < 40 } });
    if (one.low) {
      drawn.push({ label: "", stroke: "transparent", points: { show: false } }, { label: "", stroke: "transparent", points: { show: false } });
      bands.push({ series: [drawn.length - 1, drawn.length - 2], fill: colour(name, 18) });
    }
  }
  return {
    width: Math.max(200, box.clientWidth), height: HEIGHT, series: drawn, bands, legend: { show: false }, cursor: { show: false }, tzDate: inUtc,
    scales: { x: { time: days }, y: { range: (_plot, low, high) => spread(low, high, zero) } },
    axes: [whole ? { ...axis, incrs: WHOLE_STEPS } : axis, { ...axis, size: 56 }],
  };
}

// Some room above and below, and a flat line in the middle rather than on an edge.
function spread(low, high, zero) {
  const [from, to] = [zero ? Math.min(0, low ?? 0) : low ?? 0, zero ? Math.max(0, high ?? 1) : high ?? 1];
  const room = (to - from) * 0.08 || Math.abs(to) * 0.1 || 1;
  return [from - room, to + room];
}

function columns(x, series) {
  return [x, ...series.flatMap((one) => (one.low ? [one.values, one.low, one.high] : [one.values]))];
}

/**
 * A plot. `x` has figures, or with `days` the beginnings of days in UTC, in seconds since 1970; each
 * of `series` is {label, values} as long as `x`, null where there is none, with `low` and `high` for
 * an interval. `zero` keeps the zero line in sight, `whole` counts `x` in whole steps.
 */
export function Plot({ title, x, series, xLabel = "step", zero = false, days = false, whole = false, note = null }) {
  const box = useRef(null);
  useEffect(() => {
    const canvas = box.current;
    if (!canvas) return undefined;
    let plot = null;
    const draw = () => {
      plot?.destroy();
      plot = new uPlot(options(canvas, { series, xLabel, zero, days, whole }), columns(x, series), canvas);
    };
    draw();
    const resized = new ResizeObserver(() => plot.setSize({ width: Math.max(200, canvas.clientWidth), height: HEIGHT }));
    resized.observe(canvas);
    const themed = new MutationObserver(draw);
    themed.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => { resized.disconnect(); themed.disconnect(); plot.destroy(); };
  }, [x, series, xLabel, zero, days, whole]);
  if (!x.length) return html`<figure class="plot"><figcaption>${title}</figcaption><p class="empty">No figures yet.</p></figure>`;
  return html`<figure class="plot"><figcaption>${title}</figcaption>
    <${Legend} series=${series} />
    <div class="canvas" ref=${box} aria-hidden="true"></div>
    ${note && html`<p class="hint">${note}</p>`}
    <details><summary>As a table</summary><${Figures} title=${title} x=${x} series=${series} xLabel=${xLabel} days=${days} /></details>
  </figure>`;
}

function Legend({ series }) {
  if (series.length < 2) return null;
  return html`<ul class="legend">${series.map(({ label }, at) => html`<li class=${`series-${at % COLOURS.length + 1}`}>${label}</li>`)}</ul>`;
}

function Figures({ title, x, series, xLabel, days }) {
  const step = Math.ceil(x.length / MOST_TABLE_ROWS);
  const rows = x.map((_, at) => at).filter((at) => at % step === 0 || at === x.length - 1);
  const name = (value) => (days ? new Date(value * 1000).toLocaleDateString([], { timeZone: "UTC" }) : value);
  return html`<div class="table" role="region" aria-label=${title} tabindex="0"><table>
    <thead><tr><th scope="col">${xLabel}</th>${series.map(({ label }) => html`<th scope="col" class="end">${label}</th>`)}</tr></thead>
    <tbody>${rows.map((at) => html`<tr key=${at}><th scope="row">${name(x[at])}</th>
      ${series.map((one) => html`<td class="end">${shown(one, at)}</td>`)}</tr>`)}</tbody></table></div>`;
}

function shown({ values, low, high }, at) {
  if (values[at] === null || values[at] === undefined) return "–";
  const figure = (value) => Number(value.toPrecision(3));
  return low ? `${figure(values[at])} (${figure(low[at])} to ${figure(high[at])})` : figure(values[at]);
}
