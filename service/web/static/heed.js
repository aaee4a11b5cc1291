// The page: asks, shows one or two answers as they are written, and sends what people say of them.
// Whatever came from a person, a document or a policy is shown by textContent only.
"use strict";

const REASONS = ["Wrong", "Out of date", "Incomplete", "Hard to understand", "Too long", "Off topic"];
const CHOICES = [
  { key: "1", choice: "A", strength: "much", label: "A is much better" },
  { key: "2", choice: "A", strength: "slightly", label: "A is slightly better" },
  { key: "3", choice: "tie", strength: null, label: "Equally good" },
  { key: "4", choice: "B", strength: "slightly", label: "B is slightly better" },
  { key: "5", choice: "B", strength: "much", label: "B is much better" },
  { key: "0", choice: "both_bad", strength: null, label: "Both are bad" },
];
const RUN_STATES = { awaiting_approval: "awaits approval" };
const POLL_MS = 3000;
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 4000;
const MOST_TRIES = 12;

const page = (id) => document.getElementById(id);
const state = { conversation: null, asking: null, operator: false, ready: false, openRuns: new Set() };

// ---- small pieces -------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function button(label, onclick, attributes = {}) {
  return make("button", { type: "button", onclick, ...attributes }, label);
}

function badge(text, kind = "") {
  return make("span", { class: `badge ${kind}` }, text);
}

function when(moment) {
  return new Date(moment).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

function notice(text) {
  page("notice").textContent = text || "";
  page("notice").hidden = !text;
}

async function problemOf(response) {
  try {
    const problem = await response.json();
    return problem.detail || problem.title;
  } catch {
    return `The server answered with ${response.status}. Please try again.`;
  }
}

async function call(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const response = await fetch(path, options);
  if (!response.ok) throw new Error(await problemOf(response));
  return response.json();
}

// ---- asking -------------------------------------------------------------------------------

async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (waiting + value).split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s)));
      if (fields.event && fields.data) yield [fields.event, JSON.parse(fields.data), Number(fields.id)];
    }
  }
}

async function ask(question, two) {
  const view = addTurn(question);
  const body = { question, conversation_id: state.conversation, compare: two ? true : null };
  await answered(view, () => ask(question, two), (signal) => fetch("/api/ask", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  }));
}

// Shows a turn to its end, over as many connections as it takes; `connect` makes the first.
async function answered(view, again, connect) {
  const asking = new AbortController();
  state.asking = { view, abort: () => asking.abort() };
  showAsking(true);
  try {
    const response = await connect(asking.signal);
    if (!response.ok) throw new Error(await problemOf(response));
    await follow(view, response, asking.signal);
  } catch (error) {
    if (error.name === "AbortError") view.stopped();
    else view.failed(error instanceof TypeError ? "The server cannot be reached." : error.message, again);
  } finally {
    if (state.asking?.view === view) {
      state.asking = null;
      showAsking(false);
    }
    refreshHistory();
  }
}

async function follow(view, response, signal) {
  let tries = 0;
  for (;;) {
    try {
      for await (const [name, data, number] of serverEvents(response)) {
        show(view, name, data);
        view.seen = number;
        tries = 0;
        if (name === "done") return;
      }
    } catch (error) {
      if (error.name === "AbortError" || error instanceof TurnError) throw error;
    }
    response = null;
    while (response === null) {
      if (view.id === null || ++tries > MOST_TRIES) throw new Error("The connection broke before the answer ended. Please ask again.");
      response = await reconnected(view, tries, signal);
    }
  }
}

// The rest of a turn whose connection broke, or null where the server cannot be reached yet.
async function reconnected(view, tries, signal) {
  const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (tries - 1));
  // Not all pages that lost one server should come back at the same moment.
  await new Promise((resolve) => { setTimeout(resolve, longest * (0.5 + Math.random() / 2)); });
  signal.throwIfAborted();
  try {
    const response = await streamOf(view, signal);
    if (response.ok) return response;
    if (response.status < 500) throw new TurnError(await problemOf(response));
  } catch (error) {
    if (error.name === "AbortError" || error instanceof TurnError) throw error;
  }
  return null;
}

function streamOf(view, signal) {
  return fetch(`/api/turns/${view.id}/stream`, { headers: { "Last-Event-ID": String(view.seen) }, signal });
}

class TurnError extends Error {}

function show(view, name, data) {
  if (name === "turn") {
    state.conversation = data.conversation_id;
    keepPlace();
    view.started(data);
  } else if (name === "token") view.piece(data.side, data.text);
  else if (name === "end") view.ended(data);
  else if (name === "done") view.done();
  else if (name === "error") throw new TurnError(data.detail);
}

// Leaving the page lets an answer go on for a while; stopping it ends it and keeps what there is.
function stop() {
  const asking = state.asking;
  if (!asking) return;
  if (asking.view.id === null) asking.abort();
  else {
    asking.view.halted = true;
    call(`/api/turns/${asking.view.id}/stop`, {}).catch(() => asking.abort());
  }
}

// So that a refreshed page is where it was.
function keepPlace() {
  if (state.conversation === null) sessionStorage.removeItem("conversation");
  else sessionStorage.setItem("conversation", state.conversation);
}

function showAsking(busy) {
  page("stop").hidden = !busy;
  page("send").hidden = busy;
  page("turns").setAttribute("aria-busy", String(busy));
}

// ---- one turn -----------------------------------------------------------------------------

function addTurn(question) {
  page("welcome").hidden = true;
  const answers = make("div", { class: "answers" });
  const turn = make("article", { class: "turn" }, make("p", { class: "asked" }, question), answers);
  page("turns").append(turn);
  turn.scrollIntoView({ block: "end" });
  const waiting = make("p", { class: "quiet", role: "status" }, "Looking it up…");
  answers.append(waiting);
  return new TurnView(turn, answers, waiting);
}

class TurnView {
  constructor(turn, answers, waiting) {
    Object.assign(this, { turn, answers, waiting, cards: new Map(), id: null, seen: 0, halted: false, passages: [] });
  }

  started({ turn_id: id, sides, version, passages }) {
    this.id = id;
    this.passages = passages;
    this.waiting.remove();
    this.answers.replaceChildren();
    this.cards.clear();
    this.answers.classList.toggle("two", sides.length === 2);
    for (const side of sides) this.addCard(side, version, true);
    if (passages.length) this.turn.append(passageList(passages));
    this.keepInView();
  }

  addCard(side, version, writing) {
    const text = make("div", { class: "text" });
    const title = side ? `Answer ${side}` : "Answer";
    const header = make("header", {}, make("strong", {}, title), badge(`v${version}`));
    const card = make("section", { class: writing ? "answer writing" : "answer", "aria-label": title }, header, text);
    this.cards.set(side, { card, text, header });
    this.answers.append(card);
    return this.cards.get(side);
  }

  piece(side, text) {
    this.cards.get(side).text.append(text);
    this.keepInView();
  }

  ended({ side, candidate_id: id, text, finish_reason: reason }) {
    const shown = this.cards.get(side);
    if (!shown.card.classList.contains("writing")) return;
    shown.card.classList.remove("writing");
    shown.text.textContent = text || "(no answer)";
    if (reason === "cancelled") shown.header.append(badge("stopped"));
    shown.card.append(feedbackOn({ id, text, thumb: null, correction: null }));
  }

  done() {
    if (this.halted) this.stopped();
    else if (this.cards.size === 2) this.askForVote(null, performance.now(), true);
    this.keepInView();
  }

  stopped() {
    this.waiting.remove();
    for (const { card } of this.cards.values()) card.classList.remove("writing");
    this.turn.append(make("p", { class: "quiet", role: "status" }, "You stopped this answer."));
  }

  failed(message, again) {
    this.stopped();
    this.turn.lastChild.remove();
    const line = make("p", { class: "failure", role: "alert" }, message);
    const retry = button("Ask again", () => { this.turn.remove(); again(); });
    this.turn.append(line, make("div", { class: "row" }, retry));
    this.keepInView();
  }

  askForVote(given, shownAt, mayTakeFocus) {
    const group = make("div", { class: "vote", role: "group", tabindex: "-1", "aria-label": "Which answer is better?" });
    const send = async (option) => {
      const body = { choice: option.choice, strength: option.strength, replaces: given ? given.id : null };
      if (shownAt !== null) body.decision_ms = Math.round(performance.now() - shownAt);
      try {
        const { id } = await call(`/api/turns/${this.id}/comparison`, body);
        group.remove();
        this.showVote({ id, ...option }, document.activeElement === document.body);
      } catch (error) {
        status.textContent = error.message;
      }
    };
    const options = CHOICES.map((option) => button(option.label, () => send(option)));
    options.forEach((element, at) => element.prepend(make("kbd", { "aria-hidden": "true" }, CHOICES[at].key)));
    const status = make("p", { class: "failure", role: "status" });
    group.append(make("p", {}, "Which answer is better?"), make("div", { class: "row" }, ...options), status);
    group.addEventListener("keydown", (event) => {
      const option = CHOICES.find(({ key }) => key === event.key);
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (option) { event.preventDefault(); send(option); }
      // Whoever goes on typing means the next question.
      else if (event.key.length === 1 && event.key !== " ") page("question").focus();
    });
    this.answers.after(group);
    const typing = page("question").value !== "";
    if (mayTakeFocus && !typing) group.focus({ preventScroll: true });
  }

  showVote(vote, takeFocus) {
    for (const [side, { card }] of this.cards) card.classList.toggle("chosen", side === vote.choice);
    const option = CHOICES.find(({ choice, strength }) => choice === vote.choice && strength === (vote.strength ?? null))
      || { label: `${vote.choice} is better` };
    const change = button("Change", () => { line.remove(); this.askForVote(vote, null, true); });
    const line = make("div", { class: "row" }, make("span", { class: "thanks", role: "status" }, `You said: ${option.label}. Thank you.`), change);
    this.answers.after(line);
    if (takeFocus) page("question").focus({ preventScroll: true });
  }

  keepInView() {
    const box = page("turns");
    if (box.scrollHeight - box.scrollTop - box.clientHeight < 260) box.scrollTop = box.scrollHeight;
  }
}

function passageList(passages) {
  const items = passages.map(({ title, text }) =>
    make("div", { class: "passage" }, make("strong", {}, title), make("p", {}, text)));
  const count = passages.length === 1 ? "1 passage was used" : `${passages.length} passages were used`;
  return make("details", {}, make("summary", {}, count), ...items);
}

// ---- thumbs and corrections ---------------------------------------------------------------

function feedbackOn(answer) {
  const more = make("div", { class: "more" });
  const said = make("span", { class: "thanks", role: "status" });
  let given = answer.thumb;
  const up = button("Good", () => send(1), { "aria-label": "Good answer", title: "Good answer" });
  const down = button("Bad", () => send(-1), { "aria-label": "Bad answer", title: "Bad answer" });
  const fix = button("Correct it", () => correctionForm(answer, more, said));

  function show() {
    up.setAttribute("aria-pressed", String(given?.value === 1));
    down.setAttribute("aria-pressed", String(given?.value === -1));
  }
  async function send(value, detail = {}) {
    try {
      const { id } = await call(`/api/candidates/${answer.id}/thumb`, { value, replaces: given ? given.id : null, ...detail });
      given = { id, value };
      said.textContent = "Thank you.";
      more.querySelector(".reason")?.remove();
      if (value === -1 && !detail.reason) more.append(reasonForm((why) => send(-1, why)));
    } catch (error) {
      said.textContent = error.message;
    }
    show();
  }
  show();
  if (answer.correction) said.textContent = "You corrected this answer.";
  return make("footer", {}, make("div", { class: "row" }, up, down, fix, said), more);
}

function reasonForm(send) {
  const reason = make("select", {}, ...REASONS.map((text) => make("option", {}, text)));
  const comment = make("textarea", { rows: "2", maxlength: "4000" });
  const form = make("form", { class: "more reason" },
    make("label", {}, "What is the matter with it?", reason),
    make("label", {}, "Anything to add? (optional)", comment),
    make("div", { class: "row" }, make("button", { type: "submit", class: "primary" }, "Send"), button("Skip", () => form.remove())));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send({ reason: reason.value, comment: comment.value.trim() || null });
  });
  return form;
}

function correctionForm(answer, box, said) {
  const text = make("textarea", { rows: "4", maxlength: "8000", required: true });
  text.value = answer.correction || answer.text;
  const form = make("form", { class: "more" },
    make("label", {}, "What should the answer have been?", text),
    make("div", { class: "row" }, make("button", { type: "submit", class: "primary" }, "Send the correction"), button("Cancel", () => form.remove())));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await call(`/api/candidates/${answer.id}/correction`, { answer: text.value });
      answer.correction = text.value;
      form.remove();
      said.textContent = "Thank you. Somebody will check it.";
    } catch (error) {
      said.textContent = error.message;
    }
  });
  box.replaceChildren(form);
  text.focus();
}

// ---- chats --------------------------------------------------------------------------------

async function refreshHistory() {
  if (page("history").hidden) return;
  const rows = await call("/api/conversations").catch(() => []);
  page("no-conversations").hidden = rows.length > 0;
  page("conversations").replaceChildren(...rows.map((row) => {
    const current = row.id === state.conversation;
    const open = button(row.title, () => openConversation(row.id), { title: when(row.created_at), "aria-current": current ? "true" : null });
    return make("li", {}, open, row.simulated ? badge("simulated", "simulated") : null);
  }));
}

async function openConversation(id) {
  try {
    const conversation = await call(`/api/conversations/${encodeURIComponent(id)}`);
    newConversation();
    state.conversation = id;
    keepPlace();
    conversation.turns.forEach(showTurn);
    page("turns").scrollTop = page("turns").scrollHeight;
  } catch (error) {
    sessionStorage.removeItem("conversation");
    notice(error.message);
  }
  refreshHistory();
  if (matchMedia("(max-width: 60rem)").matches) toggle("history", false);
}

function showTurn(turn) {
  const view = addTurn(turn.question);
  view.id = turn.id;
  if (turn.running) {
    answered(view, () => ask(turn.question, turn.compared), (signal) => streamOf(view, signal));
    return;
  }
  view.waiting.remove();
  view.answers.classList.toggle("two", turn.answers.length === 2);
  for (const answer of turn.answers) {
    const { card, text, header } = view.addCard(answer.side, answer.version, false);
    text.textContent = answer.text || "(no answer)";
    if (answer.simulated) header.append(badge("simulated", "simulated"));
    if (answer.finish_reason === "cancelled") header.append(badge("stopped"));
    card.append(feedbackOn(answer));
  }
  if (turn.passages.length) view.turn.append(passageList(turn.passages));
  if (turn.comparison) view.showVote(turn.comparison, false);
  else if (turn.answers.length === 2) view.askForVote(null, null, false);
}

function newConversation() {
  stop();
  state.asking?.abort();
  state.conversation = null;
  keepPlace();
  page("turns").replaceChildren(page("welcome"));
  page("welcome").hidden = false;
  page("question").focus();
}

// ---- training and policies ----------------------------------------------------------------

async function refreshTraining() {
  if (page("training").hidden) return;
  try {
    const [{ evidence, runs }, { versions }] = await Promise.all([call("/api/runs"), call("/api/policies")]);
    showEvidence(evidence);
    page("runs").replaceChildren(...(runs.length ? runs.map(runCard) : [make("li", { class: "quiet" }, "No run yet.")]));
    page("versions").replaceChildren(...versions.map(versionCard));
  } catch (error) {
    page("operator-note").textContent = error.message;
  }
}

function showEvidence({ comparisons, thumbs, corrections }) {
  const rows = [["Comparisons", comparisons], ["Thumbs", thumbs], ["Corrections", { total: corrections, simulated: 0 }]];
  page("evidence").replaceChildren(...rows.flatMap(([name, count]) => [
    make("dt", {}, name),
    make("dd", {}, String(count.total), count.simulated ? badge(`${count.simulated} simulated`, "simulated") : null),
  ]));
}

function runCard(run) {
  const title = make("div", { class: "row" }, make("strong", {}, when(run.created_at)), badge(RUN_STATES[run.state] || run.state),
    run.candidate === null ? null : badge(`v${run.candidate}`));
  const card = make("li", {}, title, make("p", { class: "quiet" }, run.reason));
  if (run.progress) {
    const { stage, step, total, note, left_s: left } = run.progress;
    const time = left === null ? "" : `, about ${Math.max(1, Math.round(left / 60))} min left`;
    const bar = make("progress", { max: String(total || 1), value: String(step), "aria-label": `${stage}` });
    card.append(make("p", {}, `${stage.replace("_", " ")}: ${step} of ${total}${note ? `, ${note}` : ""}${time}`), bar);
  }
  if (run.sentence) card.append(make("p", {}, run.sentence));
  if (run.error) card.append(make("p", { class: "failure" }, run.error));
  card.append(runFigures(run.id));
  if (state.operator && ["queued", "running"].includes(run.state)) {
    card.append(make("div", { class: "row" }, button("Cancel", () => operate(`/api/runs/${run.id}/cancel`))));
  }
  return card;
}

function runFigures(id) {
  const figures = make("div", { class: "figures" });
  const details = make("details", { open: state.openRuns.has(id) }, make("summary", {}, "Figures"), figures);
  const fill = async () => {
    if (!details.open) { state.openRuns.delete(id); return; }
    state.openRuns.add(id);
    try {
      const run = await call(`/api/runs/${id}`);
      const rows = run.stages.map(({ stage, seconds, figures: found }) =>
        make("div", { class: "passage" }, make("strong", {}, `${stage.replace("_", " ")}, ${Math.round(seconds)} s`), make("p", {}, listed(found))));
      const counted = `${run.evidence.total} comparisons, ${run.evidence.simulated} of them simulated`;
      const picture = run.has_plot ? make("img", { src: `/api/runs/${id}/plot.png`, alt: "Curves of this run's training figures" }) : null;
      figures.replaceChildren(make("p", { class: "quiet" }, counted), ...rows, ...(picture ? [picture] : []));
    } catch (error) {
      figures.textContent = error.message;
    }
  };
  details.addEventListener("toggle", fill);
  return details;
}

// The plain numbers and words of a stage's figures, one a line; lists and tables are in the report.
function listed(figures) {
  const shown = Object.entries(figures).filter(([, value]) => ["number", "string", "boolean"].includes(typeof value));
  return shown.map(([name, value]) => `${name}: ${typeof value === "number" ? Number(value.toPrecision(4)) : value}`).join("\n");
}

function versionCard(version) {
  const title = make("div", { class: "row" }, make("strong", {}, `v${version.number}`), badge(version.kind),
    badge(version.alias || version.state, version.alias === "live" ? "live" : ""),
    version.leases ? badge(`${version.leases} answering`) : null);
  const card = make("li", {}, title, make("p", { class: "quiet" }, `${when(version.created_at)} · ${version.id}`));
  if (state.operator && !["live", "rejected"].includes(version.state)) {
    card.append(make("div", { class: "row" }, button(version.state === "candidate" ? "Approve and promote" : "Promote",
      () => operate(`/api/policies/${version.id}/promote`))));
  }
  return card;
}

async function operate(path) {
  const note = page("operator-note");
  try {
    await call(path, {});
    note.textContent = "Asked for. It shows below when it is done.";
  } catch (error) {
    note.textContent = error.message;
  }
  refreshTraining();
}

// ---- the frame ----------------------------------------------------------------------------

function toggle(name, open) {
  const panel = page(name);
  panel.hidden = open === undefined ? !panel.hidden : !open;
  page(`show-${name}`).setAttribute("aria-expanded", String(!panel.hidden));
}

async function refreshMe() {
  try {
    const me = await call("/api/me");
    Object.assign(state, { operator: me.operator, ready: me.waits_for === null });
    notice(me.waits_for ? `Please wait a little: ${me.waits_for}.` : "");
    page("serving").textContent = me.version === null ? "starting" : `v${me.version}`;
    page("run-controls").hidden = !me.operator;
  } catch (error) {
    state.ready = false;
    notice("The server cannot be reached. Trying again…");
  }
  page("send").disabled = !state.ready;
}

async function watch() {
  await Promise.all([refreshMe(), refreshTraining()]);
  setTimeout(watch, POLL_MS);
}

function sendQuestion(event) {
  event?.preventDefault();
  const question = page("question").value.trim();
  if (!question || state.asking || !state.ready) return;
  page("question").value = "";
  ask(question, page("two").checked);
}

page("ask").addEventListener("submit", sendQuestion);
page("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) sendQuestion(event);
});
page("stop").addEventListener("click", stop);
page("new-conversation").addEventListener("click", newConversation);
page("show-history").addEventListener("click", () => { toggle("history"); refreshHistory(); });
page("show-training").addEventListener("click", () => { toggle("training"); refreshTraining(); });
page("start-run").addEventListener("click", () => operate("/api/runs"));
page("roll-back").addEventListener("click", () => operate("/api/policies/rollback"));
watch();
if (sessionStorage.getItem("conversation")) openConversation(sessionStorage.getItem("conversation"));
page("question").focus();
