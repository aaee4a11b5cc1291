"""Everything one person said about answers, newest first, a page at a time, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any, Literal

from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from service.effects import versions_of
from service.keyset import Place, newest_first, place
from service.tables import Candidate, Comparison, GoldAnswer, PolicyVersion, Thumb, Turn
from service.voting import UNDO_S, is_past, knows_versions
from service.voting_tables import LearntVote

Kind = Literal["comparison", "thumb", "correction"]
KINDS: tuple[Kind, ...] = ("comparison", "thumb", "correction")
MOST = 20

Row = Comparison | Thumb | GoldAnswer


@dataclass(frozen=True, slots=True)
class GivenFeedback:
    """One thing somebody said. `choice` is a comparison's, "up" or "down" of a thumb, or
    "correction"; "withdrawn" of each. `answers` are the texts it was said of, A first.
    `versions` are theirs, empty while the person may not know them."""

    kind: Kind
    id: str
    at: datetime
    question: str
    choice: str
    strength: str | None
    reason: str | None
    text: str | None
    """The comment of a thumb, or the corrected answer."""
    answers: tuple[str, ...]
    versions: tuple[int, ...]
    state: str
    """ "waiting", "trained", "measured", "too_new", "skipped", "withdrawn", and of corrections
    also "proposed", "accepted" and "removed"."""
    came_of_it: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some of it, and where the next page begins; None at the end."""

    items: list[GivenFeedback]
    next: str | None


def given_feedback(
    session: Session,
    person_id: str,
    kinds: Sequence[Kind] = KINDS,
    cursor: str | None = None,
    limit: int = MOST,
    undo_s: float = UNDO_S,
) -> Page:
    """A page of what this person said, as it stands now; InvalidInputError for a cursor that no
    page gave."""
    rows = _newest(session, person_id, kinds, place(cursor), limit + 1)
    shown = rows[:limit]
    uses = _uses(session, shown)
    # Held, so that what the rows point to is read at once and not one by one.
    held = _read_ahead(session, shown)
    items = [_told(session, row, uses, undo_s) for row in shown]
    del held
    last = shown[-1] if len(rows) > limit else None
    return Page(items, str(Place(last.created_at, last.id)) if last else None)


def _newest(
    session: Session, person_id: str, kinds: Sequence[Kind], after: Place | None, limit: int
) -> list[Row]:
    found = [
        session.exec(newest_first(*_query(kind, person_id), after, limit)).all()
        for kind in KINDS
        if kind in kinds
    ]
    newest = merge(*found, key=lambda row: (row.created_at, row.id), reverse=True)
    return list(islice(newest, limit))


def _read_ahead(session: Session, rows: Sequence[Row]) -> list[Any]:
    """The candidates, turns and versions that these rows name, into the session."""
    numbers = {n for row in rows for n in _answers(row)}
    candidates = session.exec(select(Candidate).where(col(Candidate.id).in_(numbers))).all()
    turns = {row.turn_id for row in candidates}
    versions = {row.version_id for row in candidates}
    return [
        *candidates,
        *session.exec(select(Turn).where(col(Turn.id).in_(turns))),
        *session.exec(select(PolicyVersion).where(col(PolicyVersion.id).in_(versions))),
    ]


def _answers(row: Row) -> list[str]:
    """The candidates that a row names."""
    if isinstance(row, Comparison):
        return [row.candidate_a_id, row.candidate_b_id]
    return [row.candidate_id] if row.candidate_id else []


def _query(kind: Kind, person_id: str) -> tuple[SelectOfScalar[Any], Any]:
    """This person's rows in force, and their table."""
    table: Any = {"comparison": Comparison, "thumb": Thumb, "correction": GoldAnswer}[kind]
    query = select(table).where(table.person_id == person_id)
    if kind == "correction":
        return query.where(table.origin == "correction"), table
    later: Any = aliased(table)
    return query.where(~select(later.id).where(later.replaces_id == table.id).exists()), table


Uses = dict[tuple[str, str], tuple[str, int | None]]
"""By kind and id: the use of a vote, and the number of the version that came of it."""


def _uses(session: Session, rows: Sequence[Row]) -> Uses:
    ids = [row.id for row in rows]
    learnt = session.exec(select(LearntVote).where(col(LearntVote.vote_id).in_(ids))).all()
    versions = versions_of(session, sorted({row.run_id for row in learnt}))
    return {(row.kind, row.vote_id): (row.use, versions.get(row.run_id)) for row in learnt}


def _told(session: Session, row: Row, uses: Uses, undo_s: float) -> GivenFeedback:
    told: dict[type, Callable[..., GivenFeedback]] = {
        Comparison: _comparison,
        Thumb: _thumb,
        GoldAnswer: _correction,
    }
    return told[type(row)](session, row, uses, undo_s)


def _comparison(session: Session, row: Comparison, uses: Uses, undo_s: float) -> GivenFeedback:
    first, second = (
        session.get_one(Candidate, number) for number in (row.candidate_a_id, row.candidate_b_id)
    )
    known = knows_versions(session, row.person_id, row.turn_id, undo_s)
    state = _vote_state(
        row.choice, uses.get(("comparison", row.id)), is_past(row.created_at, undo_s)
    )
    return GivenFeedback(
        kind="comparison",
        id=row.id,
        at=row.created_at,
        question=session.get_one(Turn, row.turn_id).question,
        choice=row.choice,
        strength=row.strength,
        reason=row.reason,
        text=None,
        answers=(first.text, second.text),
        versions=tuple(_numbers(session, (first, second))) if known else (),
        state=state,
        came_of_it=_sentence(state, uses.get(("comparison", row.id))),
    )


def _thumb(session: Session, row: Thumb, uses: Uses, undo_s: float) -> GivenFeedback:
    candidate = session.get_one(Candidate, row.candidate_id)
    choice = {1: "up", -1: "down"}.get(row.value, "withdrawn")
    state = _vote_state(choice, uses.get(("thumb", row.id)), is_past(row.created_at, undo_s))
    blind = candidate.side and not knows_versions(session, row.person_id, candidate.turn_id, undo_s)
    return GivenFeedback(
        kind="thumb",
        id=row.id,
        at=row.created_at,
        question=session.get_one(Turn, candidate.turn_id).question,
        choice=choice,
        strength=None,
        reason=row.reason,
        text=row.comment,
        answers=(candidate.text,),
        versions=() if blind else tuple(_numbers(session, (candidate,))),
        state=state,
        came_of_it=_sentence(state, uses.get(("thumb", row.id))),
    )


def _correction(session: Session, row: GoldAnswer, uses: Uses, _undo_s: float) -> GivenFeedback:
    candidate = session.get(Candidate, row.candidate_id) if row.candidate_id else None
    use = uses.get(("correction", row.id))
    state = use[0] if use and row.state == "accepted" else row.state
    return GivenFeedback(
        kind="correction",
        id=row.id,
        at=row.created_at,
        question=row.question,
        choice="withdrawn" if row.state == "withdrawn" else "correction",
        strength=None,
        reason=None,
        text=row.answer,
        answers=(candidate.text,) if candidate else (),
        versions=(),
        state=state,
        came_of_it=_sentence(state, use),
    )


def _numbers(session: Session, candidates: Sequence[Candidate]) -> Iterator[int]:
    for candidate in candidates:
        yield session.get_one(PolicyVersion, candidate.version_id).number


def _vote_state(choice: str, use: tuple[str, int | None] | None, settled: bool) -> str:
    if choice in ("withdrawn", "skip"):
        return "withdrawn" if choice == "withdrawn" else "skipped"
    if use is not None:
        return use[0]
    return "waiting" if settled else "too_new"


def _sentence(state: str, use: tuple[str, int | None] | None) -> str:
    version = f"version {use[1]}" if use and use[1] is not None else "a version"
    return {
        "trained": f"It helped to train {version}.",
        "measured": f"It was kept to measure {version}.",
        "waiting": "It waits for the next training.",
        "too_new": "You can still undo it.",
        "skipped": "A skip is not used in training.",
        "withdrawn": "You took it back; it is in no training from then on.",
        "proposed": "It waits for a reviewer.",
        "accepted": "A reviewer accepted it; it waits for the next training.",
        "removed": "A reviewer decided not to use it.",
    }.get(state, "")
