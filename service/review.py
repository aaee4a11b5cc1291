"""What waits for a reviewer: proposed corrections, answers with thumbs down, questions without a
source. A reviewer sees question, answer, passages and what was said of the answer, and nothing
else of a conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import ColumnElement, exists
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select, text

from service import notices, verified
from service.conversations import is_deleted
from service.corrections import LONGEST_QUESTION, LONGEST_REASON
from service.errors import ConflictError, NotFoundError
from service.feedback import LONGEST_ANSWER
from service.keyset import Place, newest_first, oldest_first
from service.review_tables import (
    DOWN,
    PROPOSED,
    WITHOUT_SOURCE,
    Review,
    VerifiedAnswer,
    VerifiedShown,
)
from service.tables import (
    Candidate,
    Conversation,
    GoldAnswer,
    Person,
    PolicyVersion,
    Thumb,
    Turn,
    new_id,
    now,
)
from service.wording import content_hash, readable

PAGE = 20
MOST_COUNTED = 100
"""What waits is counted so far; more is told as "more than that"."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that waits, or a verified answer. `id` is that of the gold answer, candidate, turn
    or verified answer. `answer` is what the person was shown, `proposed` what somebody says
    would be right."""

    id: str
    question: str
    created_at: datetime
    answer: str | None = None
    version: int | None = None
    passages: tuple[dict[str, str], ...] = ()
    proposed: str | None = None
    by: str | None = None
    reason: str | None = None
    comment: str | None = None
    stale: bool = False
    """Of a verified answer: a passage it rests on has changed, so it is not shown."""
    shown: int = 0
    """Of a verified answer: to how many questions it was shown."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of items; `next` is where the next one begins, None at the end."""

    items: list[Item] = field(default_factory=list)
    next: Place | None = None


def count_waiting(session: Session) -> dict[str, int]:
    """How many of each kind wait, counted to MOST_COUNTED."""
    queries = {
        "corrections": _corrections(),
        "answers": _reported(),
        "questions": _without_source(session),
    }
    return {
        name: session.exec(
            select(func.count()).select_from(query.limit(MOST_COUNTED).subquery())
        ).one()
        for name, query in queries.items()
    }


def corrections(session: Session, after: Place | None) -> Listed:
    """The proposed corrections, the oldest first."""
    rows = session.exec(oldest_first(_corrections(), GoldAnswer, after, PAGE + 1)).all()
    found = _contexts(session, [row.candidate_id for row in rows if row.candidate_id])
    items = [
        Item(
            id=row.id,
            created_at=row.created_at,
            proposed=row.answer,
            by=row.author,
            **{**found.get(row.candidate_id or "", {}), "question": row.question},
        )
        for row in rows
    ]
    return _page(items)


def reported_answers(session: Session, after: Place | None) -> Listed:
    """The answers of people with a thumb down that stands, the newest first."""
    rows = session.exec(newest_first(_reported(), Thumb, after, PAGE + 1)).all()
    found = _contexts(session, [row.candidate_id for row in rows])
    return _page(
        [
            Item(
                id=row.id,
                created_at=row.created_at,
                reason=row.reason,
                comment=row.comment,
                **found[row.candidate_id],
            )
            for row in rows
        ]
    )


def questions_without_source(session: Session, after: Place | None) -> Listed:
    """The questions of people that no passage fitted, the newest first."""
    rows = session.exec(newest_first(_without_source(session), Turn, after, PAGE + 1)).all()
    answers = _first_answers(session, [row.id for row in rows])
    items = [
        Item(
            id=row.id,
            question=row.question,
            created_at=row.created_at,
            answer=answers.get(row.id, (None, None))[0],
            version=answers.get(row.id, (None, None))[1],
        )
        for row in rows
    ]
    return _page(items)


def verified_answers(session: Session, after: Place | None, words: str = "") -> Listed:
    """The verified answers in force, the newest first; with `words`, those that hold them."""
    query = select(VerifiedAnswer).where(col(VerifiedAnswer.withdrawn_at).is_(None))
    if words.strip():
        holds = (
            col(VerifiedAnswer.question).icontains(words.strip(), autoescape=True),
            col(VerifiedAnswer.answer).icontains(words.strip(), autoescape=True),
        )
        query = query.where(holds[0] | holds[1])
    rows = session.exec(newest_first(query, VerifiedAnswer, after, PAGE + 1)).all()
    counted = (
        select(VerifiedShown.verified_id, func.count())
        .where(col(VerifiedShown.verified_id).in_([row.id for row in rows]))
        .group_by(col(VerifiedShown.verified_id))
    )
    shown = dict(session.exec(counted).all())
    items = [
        Item(
            id=row.id,
            question=row.question,
            created_at=row.created_at,
            answer=row.answer,
            by=row.by,
            stale=bool(verified.changed_passages(session, row)),
            shown=shown.get(row.id, 0),
        )
        for row in rows
    ]
    return _page(items)


def settle(
    session: Session, kind: str, target_id: str, reviewer: Person, reason: str | None = None
) -> None:
    """Take a reported "answer" (by its thumb) or a "question" (by its turn) off the queue with
    nothing else done; NotFoundError where it is none."""
    _target_turn(session, kind, target_id)
    kept = readable("reason", reason, LONGEST_REASON) if reason and reason.strip() else None
    _note(session, kind, target_id, "settled", reviewer, kept)


def write_answer(
    session: Session, kind: str, target_id: str, reviewer: Person, question: str, answer: str
) -> VerifiedAnswer:
    """Write the right answer to what waits; it is shown at once, and trained on later.

    NotFoundError where nothing of that kind waits under this id, InvalidInputError for a text
    that cannot be used, ConflictError where somebody has decided already.
    """
    turn, candidate_id = _target_turn(session, kind, target_id)
    asked = readable("question", question, LONGEST_QUESTION)
    right = readable("answer", answer, LONGEST_ANSWER)
    number = new_id()
    gold = GoldAnswer(
        id=number,
        external_id=number,
        question=asked,
        answer=right,
        author=reviewer.name,
        updated=now(),
        origin="correction",
        state="accepted",
        person_id=reviewer.id,
        candidate_id=candidate_id,
        content_hash=content_hash(asked, right),
    )
    session.add(gold)
    session.flush()
    shown = verified.put_in_force(session, gold, reviewer.name, reviewer)
    _note(session, kind, target_id, "accepted", reviewer, None, gold_answer=number)
    if kind == "answer":
        notices.tell_fixed(session, gold, shown)
    else:
        notices.tell_answered(session, turn, shown)
    return shown


def _corrections() -> Any:
    proposed = select(GoldAnswer).where(text(PROPOSED), GoldAnswer.origin == "correction")
    return proposed.where(~_in_deleted(col(GoldAnswer.candidate_id)))


def _reported() -> Any:
    later = aliased(Thumb)
    replaced = exists().where(col(later.replaces_id) == col(Thumb.id))
    down = select(Thumb).where(text(DOWN), ~replaced, ~_decided("answer", Thumb.id))
    return down.where(~_in_deleted(col(Thumb.candidate_id)))


def _without_source(session: Session) -> Any:
    deleted = exists().where(
        col(Conversation.id) == col(Turn.conversation_id), col(Conversation.deleted_at).is_not(None)
    )
    without = text(WITHOUT_SOURCE[session.get_bind().dialect.name])
    return select(Turn).where(without, ~deleted, ~_decided("question", Turn.id))


def _in_deleted(candidate_id: Any) -> ColumnElement[bool]:
    return exists().where(
        col(Candidate.id) == candidate_id,
        col(Turn.id) == col(Candidate.turn_id),
        col(Conversation.id) == col(Turn.conversation_id),
        col(Conversation.deleted_at).is_not(None),
    )


def _decided(kind: str, number: Any) -> ColumnElement[bool]:
    return exists().where(col(Review.kind) == kind, col(Review.target_id) == col(number))


def _page(items: list[Item]) -> Listed:
    """The first page of these, of which one more than a page was asked for."""
    shown = items[:PAGE]
    more = len(items) > PAGE
    return Listed(shown, Place(shown[-1].created_at, shown[-1].id) if more else None)


def _contexts(session: Session, candidate_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of each answer what a reviewer may see: question, answer, version, passages."""
    query = (
        select(Candidate, PolicyVersion.number, Turn)
        .join(PolicyVersion, col(PolicyVersion.id) == col(Candidate.version_id))
        .join(Turn, col(Turn.id) == col(Candidate.turn_id))
        .where(col(Candidate.id).in_(candidate_ids))
    )
    return {
        candidate.id: {
            "question": turn.question,
            "answer": candidate.text,
            "version": version,
            "passages": tuple(turn.prompt.get("passages", ())),
        }
        for candidate, version, turn in session.exec(query)
    }


def _first_answers(session: Session, turn_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    query = (
        select(Candidate.turn_id, Candidate.text, PolicyVersion.number)
        .join(PolicyVersion, col(PolicyVersion.id) == col(Candidate.version_id))
        .where(col(Candidate.turn_id).in_(turn_ids))
        .order_by(col(Candidate.side).desc())
    )
    return {turn: (answer, version) for turn, answer, version in session.exec(query)}


def _target_turn(session: Session, kind: str, target_id: str) -> tuple[Turn, str | None]:
    """The turn of a thumb down or of a question, and the answer that is meant."""
    if kind == "answer":
        thumb = session.get(Thumb, target_id)
        candidate = session.get(Candidate, thumb.candidate_id) if thumb else None
        if candidate is not None and not is_deleted(session, candidate.turn_id):
            return session.get_one(Turn, candidate.turn_id), candidate.id
    else:
        turn = session.get(Turn, target_id)
        answerable = turn is not None and not turn.prompt.get("passages")
        if turn is not None and answerable and not is_deleted(session, turn.id):
            of_turn = select(Candidate.id).where(Candidate.turn_id == turn.id)
            return turn, session.exec(of_turn.order_by(col(Candidate.side))).first()
    raise NotFoundError(f"no {kind} {target_id!r} waits for a reviewer")


def _note(
    session: Session,
    kind: str,
    target_id: str,
    decision: str,
    reviewer: Person,
    reason: str | None,
    **details: str,
) -> None:
    decided = select(Review.id).where(Review.kind == kind, Review.target_id == target_id)
    if session.exec(decided).first() is not None:
        raise ConflictError("somebody has decided on this already; reload the queue")
    session.add(
        Review(
            kind=kind,
            target_id=target_id,
            decision=decision,
            reason=reason,
            details=details,
            person_id=reviewer.id,
            by=reviewer.name,
        )
    )
    session.flush()
    log.info("review_decided", kind=kind, target=target_id, decision=decision)
