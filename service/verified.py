"""Verified answers: corrections a reviewer accepted, shown at once to whoever asks the question.

An answer is shown for its question and for wordings that ask the same (same_question.py),
as long as it is in force, the asker may read what it rests on, and that still says the same.
Deciding on corrections is corrections.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import ColumnElement, update
from sqlmodel import Session, col, select

from service.database import changed_rows, insert_unless_there
from service.errors import ConflictError, InvalidInputError, NotFoundError
from service.groups import EVERYBODY
from service.review_tables import Review, VerifiedAnswer, VerifiedShown
from service.same_question import points_back, wording
from service.tables import Candidate, Document, GoldAnswer, Passage, Person, Turn, now

log = structlog.get_logger(__name__)


_ONLY_SOME = (
    "this answer rests on a passage that not everybody may read and that has changed, so that "
    "nobody can tell who may read it; ask the question again and correct that answer"
)
_REPLACED = "Another answer to this question was accepted."


def answer_for(
    session: Session,
    question: str,
    *,
    follows: bool = False,
    reader_groups: Sequence[str] = EVERYBODY,
) -> VerifiedAnswer | None:
    """The verified answer to show to these readers for this question, None where there is none.

    `follows` says that the question was asked after others in its conversation: one that may
    refer to those has no verified answer.
    """
    key = wording(question)
    if not key or (follows and points_back(question)):
        return None
    in_force = (
        select(VerifiedAnswer)
        .join(GoldAnswer, col(GoldAnswer.id) == col(VerifiedAnswer.gold_answer_id))
        .where(
            VerifiedAnswer.wording == key,
            col(VerifiedAnswer.withdrawn_at).is_(None),
            GoldAnswer.state == "accepted",
        )
        .order_by(col(VerifiedAnswer.created_at).desc(), col(VerifiedAnswer.id))
    )
    found = session.exec(in_force).first()
    if found is None or changed_passages(session, found, reader_groups):
        return None
    return found


def note_shown(session: Session, turn_id: str, verified_id: str) -> None:
    """Keep that the turn's asker was shown this verified answer."""
    insert_unless_there(session, VerifiedShown(turn_id=turn_id, verified_id=verified_id))


def shown_in(session: Session, turn_ids: Sequence[str]) -> dict[str, VerifiedAnswer]:
    """The verified answers that were shown in these turns (at most a page of them), by turn;
    also those withdrawn since, whose `withdrawn_at` tells."""
    query = (
        select(VerifiedShown.turn_id, VerifiedAnswer)
        .join(VerifiedAnswer, col(VerifiedAnswer.id) == col(VerifiedShown.verified_id))
        .where(col(VerifiedShown.turn_id).in_(turn_ids))
    )
    return dict(session.exec(query).all())


def put_in_force(
    session: Session, gold: GoldAnswer, by: str, person: Person | None
) -> VerifiedAnswer:
    """Show an accepted correction for its question from now on, in place of an earlier one, which
    is trained on no longer.

    InvalidInputError for a question that cannot be told from others.
    """
    key = wording(gold.question)
    if not key:
        raise InvalidInputError(
            f"{gold.question!r} is too short to be told from other questions; write it in full"
        )
    turn = _corrected_turn(session, gold)
    if turn is not None and turn.position and points_back(gold.question):
        raise InvalidInputError(
            f"{gold.question!r} refers to what was said before it; write the question in full, "
            "as somebody who begins with it would"
        )
    passages = turn.prompt.get("passages", ()) if turn else ()
    standing = _standing(session, passages)
    if turn is not None and turn.restricted and len(standing) < len(passages):
        raise InvalidInputError(_ONLY_SOME)
    _end_earlier(session, key, gold, by, person)
    row = VerifiedAnswer(
        gold_answer_id=gold.id,
        wording=key,
        question=gold.question,
        answer=gold.answer,
        rests_on=standing,
        by=by,
        person_id=person.id if person else None,
    )
    session.add(row)
    session.flush()
    log.info("answer_verified", verified=row.id, gold_answer=gold.id)
    return row


def withdraw(
    session: Session, verified_id: str, by: str, reason: str, person: Person | None = None
) -> None:
    """Show the answer no longer and train on it no longer; ConflictError where it is withdrawn."""
    row = _found(session, verified_id)
    statement = (
        update(VerifiedAnswer)
        .where(col(VerifiedAnswer.id) == verified_id, col(VerifiedAnswer.withdrawn_at).is_(None))
        .values(withdrawn_at=now())
    )
    if not changed_rows(session.execute(statement)):
        raise ConflictError("this answer was withdrawn already")
    removed = update(GoldAnswer).where(col(GoldAnswer.id) == row.gold_answer_id)
    session.execute(removed.values(state="removed"))
    _decided(session, verified_id, "withdrawn", by, reason, person)
    log.info("verified_answer_withdrawn", verified=verified_id)


def take_down(
    session: Session, gold_answer_id: str, reason: str, person: Person
) -> Sequence[VerifiedAnswer]:
    """Show no longer what was made of a gold answer that this person took back; what was shown
    until now."""
    made_of_it = col(VerifiedAnswer.gold_answer_id) == gold_answer_id
    return _end(session, made_of_it, person.name, reason, person)


def confirm(session: Session, verified_id: str, by: str, person: Person | None = None) -> None:
    """Say that the answer still holds although a passage it rests on has changed."""
    row = _found(session, verified_id)
    if row.withdrawn_at is not None:
        raise ConflictError("this answer was withdrawn; propose it again instead")
    gone = changed_passages(session, row)
    gold = session.get_one(GoldAnswer, row.gold_answer_id)
    turn = _corrected_turn(session, gold)
    if gone and turn is not None and turn.restricted:
        raise ConflictError(_ONLY_SOME)
    row.rests_on = [passage for passage in row.rests_on if passage not in gone]
    session.add(row)
    session.flush()
    _decided(session, verified_id, "confirmed", by, None, person)


def changed_passages(
    session: Session, row: VerifiedAnswer, reader_groups: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """What the answer rests on and what is gone since, reads otherwise, or is not for these
    groups; None asks for nobody's rights."""
    if not row.rests_on:
        return []
    query = (
        select(Passage.document_id, Passage.text, Document.readers)
        .join(Document, col(Document.id) == col(Passage.document_id))
        .where(
            col(Passage.document_id).in_([passage["document_id"] for passage in row.rests_on]),
            col(Passage.text).in_([passage["text"] for passage in row.rests_on]),
        )
    )
    standing = {
        (document, text)
        for document, text, readers in session.exec(query)
        if reader_groups is None or not set(reader_groups).isdisjoint(readers)
    }
    return [
        passage
        for passage in row.rests_on
        if (passage["document_id"], passage["text"]) not in standing
    ]


def _found(session: Session, verified_id: str) -> VerifiedAnswer:
    row = session.get(VerifiedAnswer, verified_id)
    if row is None:
        raise NotFoundError(f"there is no verified answer {verified_id!r}")
    return row


def _corrected_turn(session: Session, gold: GoldAnswer) -> Turn | None:
    candidate = session.get(Candidate, gold.candidate_id) if gold.candidate_id else None
    return session.get(Turn, candidate.turn_id) if candidate else None


def _standing(session: Session, shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the shown passages that are still in a document."""
    numbers = [passage.get("id", "") for passage in shown]
    query = select(Passage.document_id, Passage.text).where(col(Passage.id).in_(numbers))
    return [{"document_id": document, "text": text} for document, text in session.exec(query)]


def _end_earlier(
    session: Session, key: str, gold: GoldAnswer, by: str, person: Person | None
) -> None:
    """Show no longer what was shown for this wording, nor train on it, but for this gold answer."""
    ended = _end(session, col(VerifiedAnswer.wording) == key, by, _REPLACED, person)
    earlier = {row.gold_answer_id for row in ended} - {gold.id}
    removed = update(GoldAnswer).where(col(GoldAnswer.id).in_(earlier))
    session.execute(removed.values(state="removed"))


def _end(
    session: Session, which: ColumnElement[bool], by: str, reason: str, person: Person | None
) -> Sequence[VerifiedAnswer]:
    """Show these no longer and note why; those that were shown until now."""
    in_force = (which, col(VerifiedAnswer.withdrawn_at).is_(None))
    ended = update(VerifiedAnswer).where(*in_force).values(withdrawn_at=now())
    rows = session.scalars(ended.returning(VerifiedAnswer)).all()
    for row in rows:
        _decided(session, row.id, "withdrawn", by, reason, person)
        log.info("verified_answer_withdrawn", verified=row.id)
    return rows


def _decided(
    session: Session,
    verified_id: str,
    decision: str,
    by: str,
    reason: str | None,
    person: Person | None,
) -> None:
    session.add(
        Review(
            kind="verified",
            target_id=verified_id,
            decision=decision,
            reason=reason,
            by=by,
            person_id=person.id if person else None,
        )
    )
    session.flush()
