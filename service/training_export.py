"""The feedback as rows in TRL's conversational forms, a chunk at a time, with where each came from.

Left out, always: questions of evaluation sources and those that redactors make the same, so that
nobody trains on the exam; votes that were replaced, taken back or can still be undone; what belongs
to a deleted conversation, or was answered from what not everybody may read; hidden checks, which
are no votes. The votes and prompts are those that training would have: a vote's prompt as it was
answered, a gold answer's as it would be answered now. Simulated people's rows are marked, and there
only if asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar

from sqlalchemy import Engine
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from rlhf_engine.records import Prompt
from rlhf_engine.render import messages
from rlhf_engine.snapshot import normalised
from service.citations import open_gold_answers, open_turns
from service.database import session
from service.evidence import Sides, read_sides, stored_prompt
from service.keyset import Place, oldest_first
from service.passage_finder import PassageFinder, best_passages
from service.redaction import Redact, redacted_lines, redacted_prompts
from service.settings import AnswerSettings
from service.tables import Candidate, Comparison, Conversation, GoldAnswer, Thumb, Turn, now

Kind = Literal["preference", "unpaired", "prompt-completion"]
KINDS: tuple[Kind, ...] = ("preference", "unpaired", "prompt-completion")

CHUNK = 200
"""Rows of the database in memory at once."""
MARGINS: dict[str | None, float] = {"slightly": 0.0, None: 0.25, "much": 0.5}
"""By how much the chosen answer's score should exceed the other's, by the strength of the choice;
those that Heed's own reward model is trained with."""

Line = dict[str, Any]
Row = TypeVar("Row", Comparison, Thumb, GoldAnswer)


class Which(NamedTuple):
    """Which votes are told: whether simulated people's too, and people's given before when."""

    simulated: bool
    settled_before: datetime


def exported_rows(
    database: Engine,
    kind: Kind,
    *,
    simulated: bool,
    undo_s: float,
    answers: AnswerSettings,
    redact: Redact | None = None,
    finder: PassageFinder | None = None,
) -> Iterator[Line]:
    """The rows of one kind, oldest first, their messages redacted.

    "preference" holds comparisons with a winner (DPO, reward models), "unpaired" thumbs and
    answers of pairs that were both bad (KTO), "prompt-completion" the accepted gold answers
    (SFT), with the passages that `finder` finds now for `answers`. A person's vote younger than
    `undo_s` seconds is not there. No transaction stays open between rows. PluginFailure where a
    redactor fails.
    """
    which = Which(simulated, now() - timedelta(seconds=undo_s))
    with session(database) as opened:
        sides = read_sides(opened, held_out_percent=0, redact=redact)
    rows = _rows(database, kind, which, sides, answers, finder)
    if redact is None:
        yield from map(_with_messages, rows)
        return
    while some := list(islice(rows, CHUNK)):
        kept = _without_the_exam(some, sides, redact)
        yield from redacted_lines([_with_messages(row) for row in kept], redact)


def _with_messages(row: Line) -> Line:
    return {**row, "prompt": messages(row["prompt"])}


def _without_the_exam(rows: Sequence[Line], sides: Sides, redact: Redact) -> list[Line]:
    """Those of the rows whose question is none of the exam once it is redacted."""
    asked = redacted_prompts([row["prompt"] for row in rows], redact)
    return [
        row for row, prompt in zip(rows, asked, strict=True) if sides.of(prompt.question) != "exam"
    ]


def _rows(
    database: Engine,
    kind: Kind,
    which: Which,
    sides: Sides,
    answers: AnswerSettings,
    finder: PassageFinder | None,
) -> Iterator[Line]:
    """The rows of one kind, each with its Prompt where its messages will be."""
    if kind == "preference":
        yield from _voted(database, ("A", "B"), which, sides, _preference)
    elif kind == "unpaired":
        yield from _thumbed(database, which, sides)
        yield from _voted(database, ("both_bad",), which, sides, _both_bad)
    else:
        yield from _gold_answers(database, sides, answers, finder)


def _voted(
    database: Engine,
    choices: tuple[str, ...],
    which: Which,
    sides: Sides,
    told: Callable[[Comparison, Prompt, Candidate, Candidate], Iterator[Line]],
) -> Iterator[Line]:
    later = aliased(Comparison)
    replaced = select(later.id).where(col(later.replaces_id) == col(Comparison.id)).exists()
    query = select(Comparison).where(col(Comparison.choice).in_(choices), ~replaced)

    def tell(opened: Session, rows: list[Comparison]) -> Iterator[Line]:
        turns = _kept_turns(opened, {row.turn_id for row in rows})
        numbers = {number for row in rows for number in (row.candidate_a_id, row.candidate_b_id)}
        answers = _answers(opened, numbers)
        for row in rows:
            first, second = answers[row.candidate_a_id], answers[row.candidate_b_id]
            if row.turn_id not in turns or first.text.strip() == second.text.strip():
                continue
            prompt = stored_prompt(turns[row.turn_id], sides)
            if prompt.split != "exam":
                yield from told(row, prompt, first, second)

    yield from _lines(database, _settled(query, Comparison, which), Comparison, tell)


def _preference(
    row: Comparison, prompt: Prompt, first: Candidate, second: Candidate
) -> Iterator[Line]:
    chosen, rejected = (first, second) if row.choice == "A" else (second, first)
    yield {
        "prompt": prompt,
        "chosen": _said(chosen.text),
        "rejected": _said(rejected.text),
        "margin": MARGINS[row.strength],
        "strength": row.strength,
        "simulated": row.simulated,
        "vote_id": row.id,
        "turn_id": row.turn_id,
        "chosen_version": chosen.version_id,
        "rejected_version": rejected.version_id,
        "given_at": _moment(row.created_at),
    }


def _both_bad(
    row: Comparison, prompt: Prompt, first: Candidate, second: Candidate
) -> Iterator[Line]:
    for answer in (first, second):
        yield _judged(row, prompt, answer, False)


def _thumbed(database: Engine, which: Which, sides: Sides) -> Iterator[Line]:
    later = aliased(Thumb)
    replaced = select(later.id).where(col(later.replaces_id) == col(Thumb.id)).exists()
    query = select(Thumb).where(Thumb.value != 0, ~replaced)

    def tell(opened: Session, rows: list[Thumb]) -> Iterator[Line]:
        answers = _answers(opened, {row.candidate_id for row in rows})
        turns = _kept_turns(opened, {answer.turn_id for answer in answers.values()})
        for row in rows:
            answer = answers[row.candidate_id]
            if answer.finish_reason == "cancelled" or answer.turn_id not in turns:
                continue
            prompt = stored_prompt(turns[answer.turn_id], sides)
            if prompt.split != "exam":
                yield _judged(row, prompt, answer, row.value > 0)

    yield from _lines(database, _settled(query, Thumb, which), Thumb, tell)


def _judged(row: Comparison | Thumb, prompt: Prompt, answer: Candidate, good: bool) -> Line:
    return {
        "prompt": prompt,
        "completion": _said(answer.text),
        "label": good,
        "simulated": row.simulated,
        "vote_id": row.id,
        "turn_id": answer.turn_id,
        "version": answer.version_id,
        "given_at": _moment(row.created_at),
    }


def _gold_answers(
    database: Engine, sides: Sides, answers: AnswerSettings, finder: PassageFinder | None
) -> Iterator[Line]:
    query = select(GoldAnswer).where(
        GoldAnswer.state == "accepted", GoldAnswer.purpose == "training"
    )
    newest: dict[int, tuple[datetime, str]] = {}

    def note(opened: Session, rows: list[GoldAnswer]) -> Iterator[Line]:
        for row in open_gold_answers(opened, rows):
            key, age = hash(normalised(row.question)), row.updated or row.created_at
            if key not in newest or age >= newest[key][0]:
                newest[key] = (age, row.id)
        return iter(())

    def tell(opened: Session, rows: list[GoldAnswer]) -> Iterator[Line]:
        for row in open_gold_answers(opened, rows):
            if row.id in standing and sides.of(row.question) != "exam":
                yield _gold_answer(opened, row, answers, finder)

    yield from _lines(database, query, GoldAnswer, note)
    standing = {number for _age, number in newest.values()}
    yield from _lines(database, query, GoldAnswer, tell)


def _gold_answer(
    opened: Session, row: GoldAnswer, answers: AnswerSettings, finder: PassageFinder | None
) -> Line:
    found = best_passages(opened, row.question, answers.passages, answers.source_bar, finder)
    return {
        "prompt": Prompt(row.id, row.question, tuple(found)),
        "completion": _said(row.answer),
        "simulated": False,
        "gold_answer_id": row.id,
        "origin": row.origin,
        "given_at": _moment(row.updated or row.created_at),
    }


def _settled(query: Any, kind: Any, which: Which) -> Any:
    if not which.simulated:
        query = query.where(col(kind.simulated).is_(False))
    # Simulated people undo nothing.
    return query.where((col(kind.created_at) < which.settled_before) | col(kind.simulated))


def _lines(
    database: Engine,
    query: Any,
    kind: type[Row],
    tell: Callable[[Session, list[Row]], Iterator[Line]],
) -> Iterator[Line]:
    """What `tell` makes of the query's rows, a chunk at a time; the session of a chunk is closed
    before its lines are given on, so that a slow reader holds none."""
    after: Place | None = None
    while True:
        with session(database) as opened:
            rows = list(opened.exec(oldest_first(query, kind, after, CHUNK)).all())
            lines = list(tell(opened, rows))
        yield from lines
        if len(rows) < CHUNK:
            return
        after = Place(rows[-1].created_at, rows[-1].id)


def _kept_turns(opened: Session, numbers: set[str]) -> dict[str, Turn]:
    """These turns, without those of deleted conversations and those not everybody may read."""
    query = (
        select(Turn)
        .join(Conversation, col(Conversation.id) == col(Turn.conversation_id))
        .where(col(Turn.id).in_(numbers), col(Conversation.deleted_at).is_(None))
    )
    return open_turns(opened, {turn.id: turn for turn in opened.exec(query)})


def _answers(opened: Session, numbers: set[str]) -> dict[str, Candidate]:
    query = select(Candidate).where(col(Candidate.id).in_(numbers))
    return {answer.id: answer for answer in opened.exec(query)}


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
