"""What people are told about what they gave: each thing once, until they have read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog
from sqlalchemy import update
from sqlmodel import Session, col, func, select

from service.database import changed_rows, insert_unless_there
from service.errors import NotFoundError
from service.review_tables import Notice, VerifiedAnswer
from service.tables import Candidate, Conversation, GoldAnswer, Person, Thumb, Turn, now

LONGEST_SHOWN = 80
MOST_TOLD = 1_000
"""People who are told of one fixed answer; the ones who reported it last."""

log = structlog.get_logger(__name__)


def tell(session: Session, person_id: str, about: str, text: str, link: str | None = None) -> bool:
    """Tell a person something, unless they were told of `about` before; whether they were told."""
    told = insert_unless_there(
        session, Notice(person_id=person_id, about=about, text=text, link=link)
    )
    if told:
        log.info("notice_given", about=about)
    return told


def tell_fixed(session: Session, gold: GoldAnswer, shown: VerifiedAnswer) -> int:
    """Tell whoever corrected the answer, or gave it a thumb down, that a
    verified answer is shown now; how many were told."""
    question = _shortened(shown.question)
    count = 0
    if gold.person_id is not None and gold.person_id != shown.person_id:
        text = f"Your answer to “{question}” was accepted. It is shown to everybody who asks this."
        count += tell(session, gold.person_id, f"fixed:{gold.id}", text, _link(session, gold))
    for person_id, conversation_id in _reporters(session, gold):
        text = f"The answer to “{question}” that you reported was fixed."
        link = f"/chat/{conversation_id}"
        count += tell(session, person_id, f"fixed:{gold.id}", text, link)
    return count


def tell_answered(session: Session, turn: Turn, shown: VerifiedAnswer) -> None:
    """Tell whoever asked a question that had no source that it has a verified answer now."""
    asker = session.get_one(Conversation, turn.conversation_id)
    text = f"Your question “{_shortened(shown.question)}” has a verified answer now."
    tell(session, asker.person_id, f"answered:{turn.id}", text, f"/chat/{asker.id}")


def tell_not_taken(session: Session, gold: GoldAnswer, reason: str | None) -> None:
    """Tell whoever proposed a correction that it was not taken, and why."""
    if gold.person_id is None:
        return
    text = f"Your answer to “{_shortened(gold.question)}” was not taken."
    if reason:
        text = f"{text} The reviewer says: {reason}"
    tell(session, gold.person_id, f"not-taken:{gold.id}", text, _link(session, gold))


def tell_taken_back(session: Session, shown: VerifiedAnswer, by: Person) -> None:
    """Tell the reviewer who accepted an answer why it is not shown any more."""
    if shown.person_id is None or shown.person_id == by.id:
        return
    text = (
        f"Whoever proposed the verified answer to “{_shortened(shown.question)}” took it back. It "
        "is neither shown nor trained on any more."
    )
    tell(session, shown.person_id, f"taken-back:{shown.id}", text, "/review")


def newest(session: Session, person_id: str, limit: int) -> Sequence[Notice]:
    """A person's notices, the newest first."""
    query = select(Notice).where(Notice.person_id == person_id)
    ordered = query.order_by(col(Notice.created_at).desc(), col(Notice.id))
    return session.exec(ordered.limit(limit)).all()


def unread(session: Session, person_id: str) -> int:
    """How many notices a person has not read."""
    query = select(func.count()).select_from(Notice).where(Notice.person_id == person_id)
    return session.exec(query.where(col(Notice.read_at).is_(None))).one()


def mark_read(session: Session, person_id: str, notice_id: str) -> None:
    """Note that a person read one of their notices; NotFoundError where it is not theirs."""
    notice = session.get(Notice, notice_id)
    if notice is None or notice.person_id != person_id:
        raise NotFoundError(f"you have no notice {notice_id!r}")
    if notice.read_at is None:
        notice.read_at = now()
        session.add(notice)
        session.flush()


def mark_all_read(session: Session, person_id: str, until: datetime) -> int:
    """Note that a person read every notice up to a moment; how many were new to them."""
    statement = update(Notice).where(
        col(Notice.person_id) == person_id,
        col(Notice.read_at).is_(None),
        col(Notice.created_at) <= until,
    )
    return changed_rows(session.execute(statement.values(read_at=now())))


def _reporters(session: Session, gold: GoldAnswer) -> Sequence[tuple[str, str]]:
    """Who gave a thumb down, and let it stand, on the corrected answer."""
    replaced = select(Thumb.replaces_id).where(
        Thumb.candidate_id == gold.candidate_id, col(Thumb.replaces_id).is_not(None)
    )
    query = (
        select(Thumb.person_id, Turn.conversation_id)
        .join(Candidate, col(Candidate.id) == col(Thumb.candidate_id))
        .join(Turn, col(Turn.id) == col(Candidate.turn_id))
        .where(
            Thumb.candidate_id == gold.candidate_id,
            Thumb.value < 0,
            col(Thumb.id).not_in(replaced),
        )
        .order_by(col(Thumb.created_at).desc())
        .limit(MOST_TOLD)
    )
    return session.exec(query).all()


def _link(session: Session, gold: GoldAnswer) -> str | None:
    query = (
        select(Conversation.id)
        .join(Turn, col(Turn.conversation_id) == col(Conversation.id))
        .join(Candidate, col(Candidate.turn_id) == col(Turn.id))
        .where(Candidate.id == gold.candidate_id)
    )
    found = session.exec(query).first() if gold.candidate_id else None
    return f"/chat/{found}" if found else None


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else f"{line[: LONGEST_SHOWN - 1]}…"
