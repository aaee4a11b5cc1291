"""What people say about answers: comparisons, thumbs and corrected answers.

Every row is one person's word on one thing; a change of mind or a withdrawal is a new row
that replaces the one in force. Rows are flushed here and committed by the caller. Votes on
pairs are voting.py's, deciding on corrections and taking them back corrections.py's; what
training makes of a row is evidence.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog
from sqlalchemy import update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from service.ballots import optional_text
from service.conversations import deleted_turns
from service.database import changed_rows, insert_unless_there
from service.errors import ConflictError, InvalidInputError, NotFoundError
from service.given_votes import in_force
from service.tables import (
    Candidate,
    Conversation,
    GoldAnswer,
    Person,
    Thumb,
    Turn,
    new_id,
)
from service.voting import current_comparisons
from service.wording import content_hash, readable

__all__ = [
    "change_correction",
    "current_comparisons",
    "current_thumbs",
    "own_correction",
    "own_thumb",
    "propose_correction",
    "record_thumb",
    "withdraw_thumb",
]

log = structlog.get_logger(__name__)

LONGEST_REASON = 100
LONGEST_COMMENT = 4_000
LONGEST_ANSWER = 8_000


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

    `reason` is a short label, `comment` free text, `replaces` the id of their thumb in force.
    Raises NotFoundError for somebody else's answer, ConflictError where there is a thumb already
    or `replaces` is not in force, and InvalidInputError for what cannot be meant.
    """
    if value not in (1, -1):
        raise InvalidInputError(f"value is {value!r}; it must be 1 (up) or -1 (down)")
    candidate, _turn = _own_candidate(session, person, candidate_id)
    last = _last_thumb(session, person, candidate_id)
    if replaces is None and last is not None and last.value == 0:
        replaces = last.id
    row = Thumb(
        candidate_id=candidate.id,
        person_id=person.id,
        value=value,
        reason=optional_text("reason", reason, LONGEST_REASON),
        comment=optional_text("comment", comment, LONGEST_COMMENT),
        replaces_id=replaces,
        simulated=person.kind == "simulated",
    )
    if replaces is not None:
        own_thumb(session, person, replaces, candidate_id)
    return _insert_thumb(session, row)


def withdraw_thumb(session: Session, person: Person, thumb_id: str) -> Thumb:
    """Take a thumb of one's own back: it is in no training from now on.

    NotFoundError for somebody else's, ConflictError where it is not in force any more.
    """
    old = own_thumb(session, person, thumb_id)
    if old.value == 0:
        return old
    kept = old.model_dump(include={"candidate_id", "person_id", "simulated"})
    return _insert_thumb(session, Thumb(**kept, value=0, replaces_id=old.id))


def own_thumb(
    session: Session, person: Person, thumb_id: str, candidate_id: str | None = None
) -> Thumb:
    """A thumb this person gave, on that answer where one is named; else NotFoundError."""
    row = session.get(Thumb, thumb_id)
    if row is None or row.person_id != person.id or candidate_id not in (None, row.candidate_id):
        raise NotFoundError(f"you gave no vote {thumb_id!r} here that could be replaced")
    return row


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


def change_correction(
    session: Session, person: Person, gold_answer_id: str, answer: str
) -> GoldAnswer:
    """Word a correction of one's own otherwise, while nobody has decided on it.

    NotFoundError for somebody else's, ConflictError where it was decided on.
    """
    text = readable("answer", answer, LONGEST_ANSWER)
    row = own_correction(session, person, gold_answer_id)
    undecided = (col(GoldAnswer.id) == row.id, col(GoldAnswer.state) == "proposed")
    values = {"answer": text, "content_hash": content_hash(row.question, text)}
    if not changed_rows(session.execute(update(GoldAnswer).where(*undecided).values(**values))):
        raise ConflictError("somebody has decided on this answer already; propose it anew instead")
    log.info("correction_changed", gold_answer=row.id)
    session.refresh(row)
    return row


def own_correction(session: Session, person: Person, gold_answer_id: str) -> GoldAnswer:
    """A correction this person wrote; NotFoundError where there is none."""
    row = session.get(GoldAnswer, gold_answer_id)
    if row is None or row.person_id != person.id or row.origin != "correction":
        raise NotFoundError(f"you wrote no answer {gold_answer_id!r}")
    return row


def current_thumbs(session: Session, settled_before: datetime | None = None) -> Sequence[Thumb]:
    """The thumbs in force (not replaced or withdrawn, and not in a deleted conversation), oldest
    first; with `settled_before` given before that moment."""
    later = aliased(Thumb)
    query = select(Thumb).where(
        Thumb.value != 0,
        ~select(later.id).where(col(later.replaces_id) == col(Thumb.id)).exists(),
        col(Thumb.candidate_id).not_in(
            select(Candidate.id).where(col(Candidate.turn_id).in_(deleted_turns()))
        ),
    )
    if settled_before is not None:
        # Simulated people undo nothing.
        query = query.where((col(Thumb.created_at) < settled_before) | col(Thumb.simulated))
    return session.exec(query.order_by(col(Thumb.created_at), col(Thumb.id))).all()


def _own_candidate(session: Session, person: Person, candidate_id: str) -> tuple[Candidate, Turn]:
    query = (
        select(Candidate, Turn)
        .join(Turn, col(Turn.id) == col(Candidate.turn_id))
        .join(Conversation, col(Conversation.id) == col(Turn.conversation_id))
        .where(
            Candidate.id == candidate_id,
            Conversation.person_id == person.id,
            col(Conversation.deleted_at).is_(None),
        )
    )
    found = session.exec(query).first()
    if found is None:
        raise NotFoundError(f"you were given no answer {candidate_id!r}")
    return found


def _last_thumb(session: Session, person: Person, candidate_id: str) -> Thumb | None:
    given = select(Thumb).where(Thumb.candidate_id == candidate_id, Thumb.person_id == person.id)
    return in_force(session.exec(given).all())


def _insert_thumb(session: Session, row: Thumb) -> Thumb:
    """Insert by one statement, so that of two at the same time one is refused."""
    if not insert_unless_there(session, row):
        if row.replaces_id is not None:
            raise ConflictError(
                f"vote {row.replaces_id} was replaced already; name the vote that replaced it"
            )
        raise ConflictError(
            f"you voted on answer {row.candidate_id} already; to change it, give the id of that "
            "vote as `replaces`"
        )
    log.info("vote_recorded", kind="thumb", vote=row.id, simulated=row.simulated)
    return session.get_one(Thumb, row.id)
