"""Corrected answers waiting for somebody's word: an accepted one is shown at once as verified and
trained on later, a rejected one and one that was taken back is neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import update
from sqlmodel import Session, col, select

from service import notices, verified
from service.conversations import deleted_turns, is_deleted
from service.database import changed_rows
from service.errors import ConflictError, NotFoundError
from service.feedback import LONGEST_ANSWER, own_correction
from service.review_tables import Review, VerifiedAnswer
from service.tables import Candidate, GoldAnswer, Person, now
from service.wording import content_hash, readable

LONGEST_QUESTION = 2_000
LONGEST_REASON = 1_000
TAKEN_BACK = "Whoever proposed this answer took it back."

log = structlog.get_logger(__name__)


def proposed(session: Session) -> Sequence[GoldAnswer]:
    """The corrections nobody has decided on, oldest first, without those of deleted
    conversations."""
    gone = select(Candidate.id).where(col(Candidate.turn_id).in_(deleted_turns()))
    waiting = select(GoldAnswer).where(
        GoldAnswer.state == "proposed",
        GoldAnswer.origin == "correction",
        col(GoldAnswer.candidate_id).is_(None) | col(GoldAnswer.candidate_id).not_in(gone),
    )
    return session.exec(waiting.order_by(col(GoldAnswer.created_at), col(GoldAnswer.id))).all()


def find_proposed(session: Session, beginning: str) -> GoldAnswer:
    """The waiting correction whose id begins so; NotFoundError where it is none or several."""
    found = [row for row in proposed(session) if row.id.startswith(beginning)]
    if len(found) != 1 or not beginning:
        raise NotFoundError(
            f"{len(found)} waiting corrections have an id that begins with {beginning!r}; "
            "`heed corrections list` shows them"
        )
    return found[0]


def accept(
    session: Session,
    gold_answer_id: str,
    by: str,
    person: Person | None = None,
    *,
    question: str | None = None,
    answer: str | None = None,
) -> VerifiedAnswer:
    """Accept a correction, with the question or the answer as edited where they are given.

    It is shown for its question from now on and becomes the newest gold answer to it; whoever
    proposed it is told. Raises ConflictError where somebody has decided already, and
    InvalidInputError for a text that cannot be used or a question that cannot stand alone.
    """
    row = _correction(session, gold_answer_id)
    before = {"question": row.question, "answer": row.answer}
    values = {
        "question": readable("question", question or row.question, LONGEST_QUESTION),
        "answer": readable("answer", answer or row.answer, LONGEST_ANSWER),
    }
    hashed = content_hash(values["question"], values["answer"])
    _decide(session, row, **values, content_hash=hashed, state="accepted", author=by, updated=now())
    shown = verified.put_in_force(session, row, by, person)
    edited = {name: text for name, text in before.items() if text != values[name]}
    _note(session, row, "accepted", by, None, person, edited)
    notices.tell_fixed(session, row, shown)
    return shown


def reject(
    session: Session, gold_answer_id: str, by: str, reason: str | None, person: Person | None = None
) -> None:
    """Leave a correction out for good; ConflictError where somebody has decided already."""
    row = _correction(session, gold_answer_id)
    if reason is not None:
        reason = readable("reason", reason, LONGEST_REASON)
    _decide(session, row, state="removed")
    _note(session, row, "rejected", by, reason, person, {})
    notices.tell_not_taken(session, row, reason)


def withdraw_correction(session: Session, person: Person, gold_answer_id: str) -> GoldAnswer:
    """Take a correction of one's own back: it is in no training from now on.

    One that was accepted is shown no longer either, also where a reviewer had edited it; the
    reviewer who accepted it is told. NotFoundError for somebody else's.
    """
    row = own_correction(session, person, gold_answer_id)
    # One statement, so that a reviewer who accepts it meanwhile is refused, or has come first.
    in_use = (col(GoldAnswer.id) == row.id, col(GoldAnswer.state).in_(("proposed", "accepted")))
    taken = update(GoldAnswer).where(*in_use).values(state="withdrawn", updated=now())
    if changed_rows(session.execute(taken)):
        for shown in verified.take_down(session, row.id, TAKEN_BACK, person):
            notices.tell_taken_back(session, shown, person)
        log.info("correction_withdrawn", gold_answer=row.id)
    session.refresh(row)
    return row


def _correction(session: Session, gold_answer_id: str) -> GoldAnswer:
    row = session.get(GoldAnswer, gold_answer_id)
    candidate = session.get(Candidate, row.candidate_id) if row and row.candidate_id else None
    gone = candidate is not None and is_deleted(session, candidate.turn_id)
    if row is None or row.origin != "correction" or gone:
        raise NotFoundError(f"there is no correction {gold_answer_id!r}")
    return row


def _decide(session: Session, row: GoldAnswer, **values: Any) -> None:
    """Write the decision by one statement, so that of two at the same time one is refused."""
    undecided = (col(GoldAnswer.id) == row.id, col(GoldAnswer.state) == "proposed")
    if not changed_rows(session.execute(update(GoldAnswer).where(*undecided).values(**values))):
        raise ConflictError(f"correction {row.id} was decided already, or taken back")
    session.refresh(row)


def _note(
    session: Session,
    row: GoldAnswer,
    decision: str,
    by: str,
    reason: str | None,
    person: Person | None,
    edited: dict[str, str],
) -> None:
    session.add(
        Review(
            kind="correction",
            target_id=row.id,
            decision=decision,
            reason=reason,
            details={"before": edited} if edited else {},
            person_id=person.id if person else None,
            by=by,
        )
    )
    session.flush()
    log.info("correction_decided", gold_answer=row.id, accepted=decision == "accepted")
