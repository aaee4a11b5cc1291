// One conversation as it stands on the page: its tree of turns, the branch shown, and the answers
// on their way. Everything is a signal, so that a token redraws its own answer only.
import { batch, computed, signal } from "/static/vendor/ui.js";
import { get, patch, post, Problem, stream } from "/static/frame/api.js";

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 4000;
const MOST_TRIES = 12;
const LOST = "The connection broke before the answer ended. Please ask again.";

/**
 * A turn of the page. `answers` holds {id, side, text, writing, finish_reason, version, ...};
 * `instead` is the turn that an edited or repeated question stands beside.
 */
function turnOf(row) {
  return {
    ...row,
    // Stays when the turn gets its id, so that it is not drawn anew.
    key: row.id,
    answers: signal(row.answers ?? []),
    state: signal(row.running ? "writing" : "over"),
    failure: signal(null),
    instead: row.instead ?? null,
    stopWanted: false,
    seen: 0,
  };
}

/** The branch with `shown` in it: the way to it, then the newest of what follows. */
export function branchOf(turns, shown) {
  const byId = new Map(turns.map((turn) => [turn.id, turn]));
  const newest = new Map();
  for (const turn of turns) newest.set(turn.parent_id ?? null, turn);
  const way = [];
  for (let turn = byId.get(shown) ?? turns.at(-1); turn; turn = byId.get(turn.parent_id)) way.unshift(turn);
  for (let next = newest.get(way.at(-1)?.id ?? null); next; next = newest.get(next.id)) way.push(next);
  return way;
}

/** A turn's siblings, itself among them, oldest first. */
export function siblingsOf(turns, turn) {
  return turns.filter(({ parent_id: parent }) => (parent ?? null) === (turn.parent_id ?? null));
}

export class Talk {
  constructor(onChange = () => {}) {
    this.id = signal(null);
    this.title = signal("");
    this.temporary = signal(false);
    this.turns = signal([]);
    this.shown = signal(null);
    // True until what was opened is there, or is known not to be.
    this.opening = signal(false);
    this.asking = signal(null);
    this.busy = computed(() => this.opening.value || this.asking.value !== null);
    this.spoken = signal("");
    this.editing = signal(null);
    this.error = signal(null);
    this.branch = computed(() => branchOf(this.turns.value, this.shown.value));
    this.onChange = onChange;
    this.left = new AbortController();
  }

  /** Leave what is shown: answers go on at the server for a while, and are not read here. */
  close() {
    this.left.abort();
    this.left = new AbortController();
    batch(() => {
      this.id.value = this.shown.value = this.asking.value = this.error.value = this.editing.value = null;
      this.turns.value = [];
      this.title.value = this.spoken.value = "";
      this.temporary.value = this.opening.value = false;
    });
  }

  /**
   * Show a stored conversation, at the turn `at` if one is given; goes on with running answers. Where
   * it could not be read it may still be there: `opening` stays, as a question belongs into it.
   */
  async open(id, at = null) {
    this.close();
    this.opening.value = true;
    const { signal: leaving } = this.left;
    try {
      const row = await get(`/api/conversations/${encodeURIComponent(id)}`, { signal: leaving });
      this.take(row, at);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.error.value = error;
      if (error.status === 404) this.opening.value = false;
    }
  }

  take(row, at = null) {
    const known = new Map(this.turns.peek().map((turn) => [turn.id, turn]));
    const rows = row.turns.map((turn) => {
      const old = known.get(turn.id);
      return old && old.state.peek() === "writing" ? Object.assign(old, { parent_id: turn.parent_id }) : turnOf(turn);
    });
    batch(() => {
      this.id.value = row.id;
      this.title.value = row.title;
      this.temporary.value = row.temporary;
      this.turns.value = rows;
      this.shown.value = at ?? row.shown_turn_id;
      this.opening.value = false;
    });
    for (const turn of rows) if (turn.running && !known.has(turn.id)) this.run(turn, null);
  }

  /** Read the conversation anew, as when another tab asked in it. */
  async refresh() {
    if (this.id.peek() === null || this.asking.peek()) return;
    const id = this.id.peek();
    try {
      const row = await get(`/api/conversations/${encodeURIComponent(id)}`, { signal: this.left.signal });
      if (this.id.peek() === id) this.take(row, this.shown.peek());
    } catch (error) {
      if (error.name !== "AbortError" && error.status === 404) this.error.value = error;
    }
  }

  /** Ask; `instead` is the turn that an edited or repeated question stands beside. */
  async ask(question, { two = false, instead = null } = {}) {
    const last = this.branch.peek().at(-1);
    const turn = turnOf({
      id: `new-${crypto.randomUUID?.() ?? Math.random()}`, parent_id: instead ? instead.parent_id : last?.id ?? null,
      question, instead, running: true, compared: two, passages: [], no_source: false, verified: null, answers: [], comparison: null,
    });
    const body = { question, conversation_id: this.id.peek(), temporary: this.temporary.peek() };
    if (two) body.compare = true;
    if (instead) body.instead_of_turn_id = instead.id;
    else if (last) body.after_turn_id = last.id;
    batch(() => {
      this.turns.value = [...this.turns.peek(), turn];
      this.shown.value = turn.id;
    });
    await this.run(turn, body);
  }

  /** Take a turn that was never begun off the page again. */
  drop(turn) {
    batch(() => {
      this.turns.value = this.turns.peek().filter((other) => other !== turn);
      if (this.shown.peek() === turn.id) this.shown.value = turn.parent_id;
    });
  }

  async run(turn, body) {
    const { signal: leaving } = this.left;
    this.asking.value = turn;
    this.spoken.value = "Heed is looking it up.";
    try {
      await this.follow(turn, body, leaving);
      turn.state.value = "over";
      this.spoken.value = spokenOf(turn);
    } catch (error) {
      if (leaving.aborted) return;
      batch(() => {
        turn.answers.value = turn.answers.peek().map((answer) => ({ ...answer, writing: false }));
        turn.state.value = "failed";
        turn.failure.value = error;
      });
    } finally {
      if (this.asking.peek() === turn) this.asking.value = null;
      if (!leaving.aborted) this.onChange();
    }
  }

  // Over as many connections as it takes; nothing that was told is told twice.
  async follow(turn, body, leaving) {
    for (let tries = 0; ;) {
      const begun = !turn.id.startsWith("new-");
      const events = begun || body === null
        ? stream(`/api/turns/${turn.id}/stream`, undefined, { lastEventId: turn.seen, signal: leaving })
        : stream("/api/ask", body, { signal: leaving });
      let told = false;
      try {
        for await (const { event, data, id } of events) {
          told = true;
          this.show(turn, event, data);
          turn.seen = id;
          tries = 0;
          if (event === "done") return;
          if (event === "error") throw new Problem(200, data.detail);
        }
        // Nothing is left to tell: it ended while nobody listened.
        if (begun && !told) { await this.refreshTurn(turn); return; }
      } catch (error) {
        if (leaving.aborted || !(error instanceof Problem) || (error.status !== 0 && error.status < 500)) throw error;
        if (turn.id.startsWith("new-")) throw error;
      }
      if (++tries > MOST_TRIES) throw new Problem(0, LOST);
      await pause(tries, leaving);
    }
  }

  show(turn, event, data) {
    if (event === "turn") this.started(turn, data);
    else if (event === "token") this.piece(turn, data.side, data.text);
    else if (event === "end") this.ended(turn, data);
  }

  started(turn, data) {
    const shown = this.shown.peek() === turn.id;
    Object.assign(turn, {
      id: data.turn_id, parent_id: data.parent_id, passages: data.passages, no_source: data.no_source,
      verified: data.verified, compared: data.sides.length > 1,
    });
    batch(() => {
      turn.answers.value = data.sides.map((side) => ({ side, text: "", writing: true, version: data.version, thumb: null, correction: null }));
      if (shown) this.shown.value = turn.id;
      this.turns.value = [...this.turns.peek()];
      if (this.id.peek() === null) {
        this.id.value = data.conversation_id;
        this.title.value = turn.question.slice(0, 80);
      }
    });
    this.onChange();
    if (turn.stopWanted) this.stop(turn);
  }

  piece(turn, side, text) {
    turn.answers.value = turn.answers.peek().map((answer) => (answer.side === side ? { ...answer, text: answer.text + text } : answer));
  }

  ended(turn, { side, candidate_id: id, text, finish_reason, version }) {
    turn.answers.value = turn.answers.peek().map((answer) => (
      answer.side === side ? { ...answer, id, text, finish_reason, version, writing: false } : answer));
  }

  /** End the answer on its way and keep what there is of it; one that has not begun ends when it does. */
  async stop(turn = this.asking.peek()) {
    if (!turn) return;
    turn.stopWanted = true;
    if (turn.id.startsWith("new-")) return;
    try {
      await post(`/api/turns/${turn.id}/stop`);
    } catch (error) {
      this.error.value = error;
    }
  }

  /** Show the branch of another turn, and remember it. */
  async showBranch(turn) {
    this.shown.value = turn.id;
    if (this.temporary.peek() || this.id.peek() === null) return;
    await patch(`/api/conversations/${this.id.peek()}`, { shown_turn_id: turn.id }).catch(() => {});
  }

  /** Read one turn's feedback and versions anew, as after a vote. */
  async refreshTurn(turn) {
    if (this.temporary.peek()) return;
    const row = await get(`/api/turns/${turn.id}`).catch(() => null);
    if (row === null) return;
    turn.comparison = row.comparison;
    turn.answers.value = row.answers;
  }
}

function spokenOf(turn) {
  const answers = turn.answers.peek();
  const stopped = answers.some(({ finish_reason: reason }) => reason === "cancelled") ? "Stopped. " : "";
  const source = turn.no_source ? "No good source was found. " : "";
  const verified = turn.verified ? `Verified answer: ${turn.verified.text} ` : "";
  if (answers.length > 1) return `${stopped}${source}Two answers are there. Answer A: ${answers[0].text} Answer B: ${answers[1].text}`;
  return `${stopped}${source}${verified || `Answer: ${answers[0]?.text || "none"}`}`;
}

// Not all pages that lost one server should come back at the same moment.
function pause(tries, leaving) {
  const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (tries - 1));
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, longest * (0.5 + Math.random() / 2));
    leaving.addEventListener("abort", () => { clearTimeout(timer); reject(leaving.reason); }, { once: true });
  });
}
