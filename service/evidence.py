"""Gathers what a training run learns from, and freezes it as the engine's snapshot.

Accepted gold answers become demonstrations, votes become comparisons and thumbs,
questions become the prompts of PPO. Every question falls on one side for all of them:
train, held out, or exam (the questions of evaluation sources). Questions that redactors make
the same are one question. Gathering is this file's; the snapshot's files are the engine's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeVar

import structlog
from sqlmodel import Session, col, func, select

from rlhf_engine import records
from rlhf_engine.snapshot import Snapshot, freeze, is_held_out, normalised
from service.ballots import TRAINED_CHOICES
from service.citations import open_gold_answers, open_turns
from service.database import matching
from service.feedback import current_comparisons, current_thumbs
from service.passage_finder import PassageFinder, best_passages
from service.redaction import Judged, Redact, redacted_prompts, redacted_records
from service.tables import (
    Candidate,
    Comparison,
    Conversation,
    DataSource,
    Document,
    GoldAnswer,
    Passage,
    SourceQuestion,
    Thumb,
    TrainingRun,
    Turn,
)

log = structlog.get_logger(__name__)

OUTCOMES: dict[str, records.Outcome] = {"A": "a", "B": "b", "tie": "tie", "both_bad": "both_bad"}

Row = TypeVar("Row", Turn, Candidate)


@dataclass(frozen=True, slots=True)
class Sides:
    """Says on which side a question falls; the same question always on the same.

    `exam` holds normalised questions. `held_out_percent` of the others, chosen by hash,
    are held out.
    """

    exam: frozenset[str]
    held_out_percent: int

    def of(self, question: str) -> records.Split:
        """The question's side."""
        if normalised(question) in self.exam:
            return "exam"
        return "held_out" if is_held_out(question, self.held_out_percent) else "train"

    def with_exam_of(self, prompts: Iterable[records.Prompt]) -> Self:
        """These sides with the questions of the prompts that are on the exam's side added to the
        exam, as they read now."""
        added = {normalised(prompt.question) for prompt in prompts if prompt.split == "exam"}
        return replace(self, exam=self.exam | added)


def freeze_snapshot(
    session: Session,
    folder: Path,
    held_out_percent: int,
    passages: int,
    settled_before: datetime | None = None,
    source_bar: float = 0.0,
    redact: Redact | None = None,
    finder: PassageFinder | None = None,
) -> Snapshot:
    """Freeze everything there is to learn from into `folder`.

    `passages` is how many stand in a prompt when questions are answered, `source_bar` how much of
    the question each must hold, `finder` what finds them. Votes that people gave since
    `settled_before` can still be undone and are left out. `redact` is done to every question and
    answer, and sides are those of the redacted questions; one that is also made of a question of
    the exam is in the exam. Raises SnapshotError where there is no gold answer to train on,
    PluginFailure where a redactor fails.
    """
    sides = read_sides(session, held_out_percent)
    shown = gather_demonstrations(session, sides, passages, source_bar, finder)
    judged = gather_comparisons(session, sides, settled_before)
    thumbs = gather_thumbs(session, sides, settled_before)
    given = gather_questions(session, sides, passages, source_bar, finder)
    if redact is not None:
        shown, judged = redacted_records(shown, redact), redacted_records(judged, redact)
        thumbs, given = redacted_records(thumbs, redact), redacted_prompts(given, redact)
        now = sides.with_exam_of(_prompts_of(shown, judged, thumbs))
        shown = _on_their_sides(_without_the_exams(shown, now), now)
        judged, thumbs = _on_their_sides(judged, now), _on_their_sides(thumbs, now)
        given = [_on_its_side(prompt, now) for prompt in given]
    prompts = _distinct_questions([*_prompts_of(shown, judged, thumbs), *given])
    snapshot = freeze(folder, shown, judged, prompts, thumbs)
    log.info(
        "snapshot_frozen",
        snapshot=snapshot.hash,
        demonstrations=len(shown),
        comparisons=len(judged),
        simulated_comparisons=sum(item.simulated for item in judged),
        thumbs=len(thumbs),
        prompts=len(prompts),
        exam=len(sides.exam),
    )
    return snapshot


def new_comparisons(session: Session) -> int:
    """How many comparisons came since the newest run froze its snapshot; a changed mind is a
    new one too."""
    query = (
        select(TrainingRun.comparisons)
        .where(col(TrainingRun.snapshot_hash).is_not(None))
        .order_by(col(TrainingRun.created_at).desc())
    )
    return max(0, count_comparisons(session) - (session.exec(query).first() or 0))


def count_comparisons(session: Session) -> int:
    """How many comparisons that can train were ever given; a run notes it when it freezes its
    snapshot."""
    given = col(Comparison.choice).in_(TRAINED_CHOICES)
    return session.exec(select(func.count()).select_from(Comparison).where(given)).one()


def read_sides(session: Session, held_out_percent: int, redact: Redact | None = None) -> Sides:
    """The sides as the evaluation sources stand now, their questions also as `redact` leaves
    them."""
    questions = [row.question for row in _gold(session, "evaluation")]
    if redact is not None:
        questions += redact(questions)
    return Sides(frozenset(normalised(question) for question in questions), held_out_percent)


def gather_demonstrations(
    session: Session,
    sides: Sides,
    passages: int,
    source_bar: float = 0.0,
    finder: PassageFinder | None = None,
) -> list[records.Demonstration]:
    """One demonstration for each question with an accepted answer, passages as in service.

    Where a question was answered more than once, the answer updated last stands. A
    question that is also asked in the exam is only there.
    """
    exam = _newest_of_each_question(_gold(session, "evaluation"))
    training = _newest_of_each_question(_gold(session, "training"))
    kept = [row for row in training if sides.of(row.question) != "exam"]
    if len(kept) < len(training):
        log.info("exam_questions_left_out_of_training", count=len(training) - len(kept))
    return [
        _demonstration(
            row, sides, best_passages(session, row.question, passages, source_bar, finder)
        )
        for row in [*kept, *exam]
    ]


def gather_questions(
    session: Session,
    sides: Sides,
    passages: int,
    source_bar: float = 0.0,
    finder: PassageFinder | None = None,
) -> list[records.Prompt]:
    """The questions without answers that sources for training bring, passages as in service."""
    query = (
        select(SourceQuestion)
        .join(DataSource, col(DataSource.id) == col(SourceQuestion.source_id))
        .where(DataSource.purpose == "training")
        .order_by(col(SourceQuestion.created_at), col(SourceQuestion.id))
    )
    rows = [row for row in session.exec(query) if sides.of(row.question) != "exam"]
    return [
        records.Prompt(
            row.id,
            row.question,
            tuple(best_passages(session, row.question, passages, source_bar, finder)),
            split=sides.of(row.question),
        )
        for row in rows
    ]


def gather_comparisons(
    session: Session, sides: Sides, settled_before: datetime | None = None
) -> list[records.Comparison]:
    """The comparisons in force with the prompts as they were answered.

    Two answers with the same text teach nothing and are left out.
    """
    rows = current_comparisons(session, settled_before)
    turns = _kept_turns(session, [row.turn_id for row in rows])
    rows = [row for row in rows if row.turn_id in turns]
    numbers = [number for row in rows for number in (row.candidate_a_id, row.candidate_b_id)]
    candidates = _by_id(session, Candidate, numbers)
    gathered = [
        _comparison(
            row,
            stored_prompt(turns[row.turn_id], sides),
            candidates[row.candidate_a_id],
            candidates[row.candidate_b_id],
        )
        for row in rows
    ]
    different = [item for item in gathered if item.answer_a.strip() != item.answer_b.strip()]
    sources = _sources_of(session, [item.prompt for item in different])
    return [replace(item, source=source) for item, source in zip(different, sources, strict=True)]


def gather_thumbs(
    session: Session, sides: Sides, settled_before: datetime | None = None
) -> list[records.Thumb]:
    """The thumbs in force on whole answers, with the prompts as they were answered."""
    rows = current_thumbs(session, settled_before)
    candidates = _by_id(session, Candidate, [row.candidate_id for row in rows])
    turns = _kept_turns(session, [candidate.turn_id for candidate in candidates.values()])
    return [
        _thumb(row, stored_prompt(turns[candidate.turn_id], sides), candidate)
        for row in rows
        if (candidate := candidates[row.candidate_id]).finish_reason != "cancelled"
        and candidate.turn_id in turns
    ]


def stored_prompt(turn: Turn, sides: Sides) -> records.Prompt:
    """The prompt of a turn as it was answered, on its side."""
    return _on_its_side(records.from_json(records.Prompt, turn.prompt), sides)


def _on_its_side(prompt: records.Prompt, sides: Sides) -> records.Prompt:
    return replace(prompt, split=sides.of(prompt.question))


def _on_their_sides(items: Iterable[Judged], sides: Sides) -> list[Judged]:
    return [replace(item, prompt=_on_its_side(item.prompt, sides)) for item in items]


def _without_the_exams(
    shown: Sequence[records.Demonstration], sides: Sides
) -> list[records.Demonstration]:
    """The exam's own demonstrations, and the others but for those of its questions."""
    kept = [
        item
        for item in shown
        if item.prompt.split == "exam" or sides.of(item.prompt.question) != "exam"
    ]
    if len(kept) < len(shown):
        log.info("exam_questions_left_out_of_training", count=len(shown) - len(kept))
    return kept


def _prompts_of(
    *kinds: Sequence[records.Demonstration | records.Comparison | records.Thumb],
) -> list[records.Prompt]:
    return [item.prompt for items in kinds for item in items]


def _gold(session: Session, purpose: str) -> Sequence[GoldAnswer]:
    query = select(GoldAnswer).where(GoldAnswer.state == "accepted", GoldAnswer.purpose == purpose)
    query = query.order_by(col(GoldAnswer.created_at), col(GoldAnswer.id))
    return open_gold_answers(session, session.exec(query))


def _newest_of_each_question(rows: Iterable[GoldAnswer]) -> list[GoldAnswer]:
    newest: dict[str, GoldAnswer] = {}
    for row in rows:
        key = normalised(row.question)
        known = newest.get(key)
        if known is None or (row.updated or row.created_at) >= (known.updated or known.created_at):
            newest[key] = row
    return list(newest.values())


def _demonstration(
    row: GoldAnswer, sides: Sides, passages: Sequence[records.PromptPassage]
) -> records.Demonstration:
    side = sides.of(row.question)
    prompt = records.Prompt(row.id, row.question, tuple(passages), split=side)
    return records.Demonstration(prompt, row.answer)


def _comparison(
    row: Comparison, prompt: records.Prompt, side_a: Candidate, side_b: Candidate
) -> records.Comparison:
    return records.Comparison(
        id=row.id,
        prompt=prompt,
        answer_a=side_a.text,
        answer_b=side_b.text,
        outcome=OUTCOMES[row.choice],
        strength="much" if row.strength == "much" else "slightly" if row.strength else None,
        rater=row.person_id,
        simulated=row.simulated,
        versions=(side_a.version_id, side_b.version_id),
        rated_at=_moment(row),
    )


def _thumb(row: Thumb, prompt: records.Prompt, candidate: Candidate) -> records.Thumb:
    return records.Thumb(
        prompt=prompt,
        answer=candidate.text,
        up=row.value > 0,
        rater=row.person_id,
        simulated=row.simulated,
        rated_at=_moment(row),
    )


def _moment(row: Comparison | Thumb) -> str:
    """When a vote was given, so written that later moments sort later."""
    return row.created_at.astimezone(UTC).isoformat(timespec="microseconds")


def _sources_of(session: Session, prompts: Sequence[records.Prompt]) -> list[str]:
    """The data source of each prompt's first passage; "" where there is none (any more)."""
    first = [prompt.passages[0].id if prompt.passages else "" for prompt in prompts]
    wanted = sorted(set(first) - {""})
    query = (
        select(Passage.id, DataSource.name)
        .join(Document, col(Document.id) == col(Passage.document_id))
        .join(DataSource, col(DataSource.id) == col(Document.source_id))
    )
    names = dict(matching(session, query, Passage.id, wanted))
    return [names.get(number, "") for number in first]


def _distinct_questions(prompts: Iterable[records.Prompt]) -> list[records.Prompt]:
    """The first prompt of each question that is not of the exam."""
    first: dict[str, records.Prompt] = {}
    for prompt in prompts:
        if prompt.split != "exam":
            first.setdefault(normalised(prompt.question), prompt)
    return list(first.values())


def _kept_turns(session: Session, numbers: Sequence[str]) -> dict[str, Turn]:
    """These turns without those of deleted conversations, and those that not everybody may
    read: what a policy learned, it may tell anybody."""
    turns = open_turns(session, _by_id(session, Turn, numbers))
    query = (
        select(Turn.id)
        .join(Conversation, col(Conversation.id) == col(Turn.conversation_id))
        .where(col(Conversation.deleted_at).is_not(None))
    )
    deleted = set(matching(session, query, Turn.id, numbers))
    return {number: turn for number, turn in turns.items() if number not in deleted}


def _by_id(session: Session, kind: type[Row], numbers: Sequence[str]) -> dict[str, Row]:
    return {row.id: row for row in matching(session, select(kind), kind.id, numbers)}
