"""What people say about answers: comparisons, thumbs and corrected answers.

Every row is one person's word on one thing; a change of mind is a new row that
replaces the one in force. Rows are flushed here and committed by the caller. What
training makes of them is evidence.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import structlog
from sqlmodel import Session, col, select

from service.database import insert_unless_there
from service.errors import ConflictError, InvalidInputError, NotFoundError
from service.tables import (
    Candidate,
    Comparison,
    Conversation,
    GoldAnswer,
    Person,
    Thumb,
    Turn,
    new_id,
)
from service.wording import content_hash, readable

log = structlog.get_logger(__name__)

Choice = Literal["A", "B", "tie", "both_bad"]
Strength = Literal["slightly", "much"]

CHOICES: tuple[Choice, ...] = ("A", "B", "tie", "both_bad")
STRENGTHS: tuple[Strength, ...] = ("slightly", "much")
LONGEST_REASON = 100
LONGEST_COMMENT = 4_000
LONGEST_ANSWER = 8_000
LONGEST_DECISION_MS = 24 * 60 * 60 * 1000
"""A vote that took longer says nothing about how hard it was; it is kept as this."""

Vote = TypeVar("Vote", Comparison, Thumb)


def record_comparison(
    session: Session,
    person: Person,
    turn_id: str,
    choice: str,
    strength: str | None = None,
    decision_ms: int | None = None,
    replaces: str | None = None,
) -> Comparison:
    """Keep this person's choice between the two answers of one of their turns.

    `decision_ms` is the time from both answers being shown to the choice. `replaces` is
    the id of their comparison in force. Raises NotFoundError for somebody else's turn,
    ConflictError where it was compared already or `replaces` is not in force, and
    InvalidInputError where there is nothing to compare.
    """
    _require_one_of("choice", choice, CHOICES)
    if strength is not None:
        _require_one_of("strength", strength, STRENGTHS)
    if strength is not None and choice not in ("A", "B"):
        raise InvalidInputError(f"strength belongs to a choice of A or B, not to {choice}")
    sides = _compared_sides(session, _own_turn(session, person, turn_id))
    row = Comparison(
        turn_id=turn_id,
        person_id=person.id,
        candidate_a_id=sides["A"].id,
        candidate_b_id=sides["B"].id,
        choice=choice,
        strength=strength,
        decision_ms=_bounded_ms(decision_ms),
        replaces_id=replaces,
        simulated=person.kind == "simulated",
    )
    _check_replaced(
        session.get(Comparison, replaces) if replaces else None,
        replaces,
        lambda old: old.turn_id == turn_id and old.person_id == person.id,
    )
    return _insert_vote(session, row, f"turn {turn_id}")


def record_thumb(
    session: Session,
    person: Person,
    candidate_id: str,
    value: int,
    reason: str | None = None,
    comment: str | None = None,
    replaces: str | None = None,
) -> Thumb:
    """Keep this person's up (1) or down (-1) on an answer they were given.

    `reason` is a short label, `comment` free text. `replaces` and the errors are those of
    `record_comparison`.
    """
    if value not in (1, -1):
        raise InvalidInputError(f"value is {value!r}; it must be 1 (up) or -1 (down)")
    candidate, _turn = _own_candidate(session, person, candidate_id)
    row = Thumb(
        candidate_id=candidate.id,
        person_id=person.id,
        value=value,
        reason=_optional("reason", reason, LONGEST_REASON),
        comment=_optional("comment", comment, LONGEST_COMMENT),
        replaces_id=replaces,
        simulated=person.kind == "simulated",
    )
    _check_replaced(
        session.get(Thumb, replaces) if replaces else None,
        replaces,
        lambda old: old.candidate_id == candidate_id and old.person_id == person.id,
    )
    return _insert_vote(session, row, f"answer {candidate_id}")


def propose_correction(
    session: Session, person: Person, candidate_id: str, answer: str
) -> GoldAnswer:
    """Keep the answer this person says would have been right, as a proposal.

    It is trained on once somebody has accepted it. Raises NotFoundError for somebody
    else's answer, InvalidInputError for an empty or over-long text.
    """
    text = readable("answer", answer, LONGEST_ANSWER)
    _candidate, turn = _own_candidate(session, person, candidate_id)
    number = new_id()
    row = GoldAnswer(
        id=number,
        external_id=number,
        question=turn.question,
        answer=text,
        author=person.name,
        origin="correction",
        state="proposed",
        person_id=person.id,
        candidate_id=candidate_id,
        content_hash=content_hash(turn.question, text),
    )
    session.add(row)
    session.flush()
    log.info("correction_proposed", gold_answer=number, candidate=candidate_id)
    return row


def current_comparisons(session: Session) -> Sequence[Comparison]:
    """The comparisons in force (not replaced by a later one), oldest first."""
    replaced = select(Comparison.replaces_id).where(col(Comparison.replaces_id).is_not(None))
    query = select(Comparison).where(col(Comparison.id).not_in(replaced))
    return session.exec(query.order_by(col(Comparison.created_at), col(Comparison.id))).all()


def current_thumbs(session: Session) -> Sequence[Thumb]:
    """The thumbs in force (not replaced by a later one), oldest first."""
    replaced = select(Thumb.replaces_id).where(col(Thumb.replaces_id).is_not(None))
    query = select(Thumb).where(col(Thumb.id).not_in(replaced))
    return session.exec(query.order_by(col(Thumb.created_at), col(Thumb.id))).all()


def _own_turn(session: Session, person: Person, turn_id: str) -> Turn:
    query = (
        select(Turn)
        .join(Conversation, col(Conversation.id) == col(Turn.conversation_id))
        .where(Turn.id == turn_id, Conversation.person_id == person.id)
    )
    turn = session.exec(query).first()
    if turn is None:
        raise NotFoundError(f"you have no turn {turn_id!r}")
    return turn


def _own_candidate(session: Session, person: Person, candidate_id: str) -> tuple[Candidate, Turn]:
    query = (
        select(Candidate, Turn)
        .join(Turn, col(Turn.id) == col(Candidate.turn_id))
        .join(Conversation, col(Conversation.id) == col(Turn.conversation_id))
        .where(Candidate.id == candidate_id, Conversation.person_id == person.id)
    )
    found = session.exec(query).first()
    if found is None:
        raise NotFoundError(f"you were given no answer {candidate_id!r}")
    return found


def _compared_sides(session: Session, turn: Turn) -> dict[str, Candidate]:
    rows = session.exec(select(Candidate).where(Candidate.turn_id == turn.id)).all()
    sides = {row.side: row for row in rows}
    if set(sides) != {"A", "B"}:
        raise InvalidInputError(
            f"turn {turn.id} has {len(sides)} answers, not two to compare; give thumbs instead"
        )
    if any(row.finish_reason == "cancelled" for row in sides.values()):
        raise InvalidInputError(
            f"an answer of turn {turn.id} was stopped before its end; ask again to compare"
        )
    return sides


def _check_replaced(old: Vote | None, replaces: str | None, is_own: Callable[[Vote], bool]) -> None:
    if replaces is not None and (old is None or not is_own(old)):
        raise NotFoundError(f"you gave no vote {replaces!r} here that could be replaced")


def _insert_vote(session: Session, row: Vote, target: str) -> Vote:
    """Insert by one statement, so that of two votes at the same time one is refused."""
    if not insert_unless_there(session, row):
        if row.replaces_id is not None:
            raise ConflictError(
                f"vote {row.replaces_id} was replaced already; name the vote that replaced it"
            )
        raise ConflictError(
            f"you voted on {target} already; to change it, give the id of that vote as `replaces`"
        )
    kind = type(row)
    log.info("vote_recorded", kind=kind.__tablename__, vote=row.id, simulated=row.simulated)
    return session.get_one(kind, row.id)


def _require_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InvalidInputError(f"{name} is {value!r}; it must be one of {', '.join(known)}")


def _optional(name: str, text: str | None, longest: int) -> str | None:
    if text is None or not text.strip():
        return None
    return readable(name, text, longest)


def _bounded_ms(value: int | None) -> int | None:
    return None if value is None else max(0, min(value, LONGEST_DECISION_MS))
