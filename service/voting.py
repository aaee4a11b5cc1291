"""Comparisons: given, changed, withdrawn, and what a person may know of both sides when.

Until their vote is settled (no longer undone with one key) a person is told neither version.
Rows are flushed here and committed by the caller. Which pair somebody votes on next is
voting_queue.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from service import vote_pairs
from service.ballots import (
    TRAINED_CHOICES,
    WITHDRAWN,
    Ballot,
    Shown,
    comparison_row,
    withdrawal,
)
from service.conversations import deleted_turns, own_turn
from service.database import insert_unless_there
from service.errors import ConflictError, InvalidInputError, NotFoundError
from service.given_votes import in_force, votes_of
from service.tables import (
    Candidate,
    Comparison,
    Person,
    PolicyVersion,
    Turn,
    now,
)

UNDO_S = 10
"""Seconds in which a vote is undone without a trace in training, and before both versions are
shown."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reveal:
    """What a settled vote may be told: each side's policy version by number, whether it is one on
    trial, and the side that the conversation goes on from, None where neither was chosen."""

    version_a: int
    version_b: int
    canary_a: bool
    canary_b: bool
    goes_on_with: str | None


def vote_on_turn(
    session: Session,
    person: Person,
    turn_id: str,
    ballot: Ballot,
    replaces: str | None = None,
    undo_s: float = UNDO_S,
) -> Comparison:
    """Keep this person's choice between the two answers of one of their turns, sides as drawn.

    `replaces` is the id of their vote in force. Raises NotFoundError for somebody else's turn,
    ConflictError where it was compared already or `replaces` is not in force, and
    InvalidInputError where there is nothing to compare.
    """
    turn = own_turn(session, person.id, turn_id)
    sides = compared_sides(session, turn)
    pair = vote_pairs.ensure(session, turn, person.id)
    shown = Shown(turn, sides["A"], sides["B"], pair.pairing, pair.probability)
    return keep_vote(session, person, shown, ballot, replaces, undo_s)


def keep_vote(
    session: Session,
    person: Person,
    shown: Shown,
    ballot: Ballot,
    replaces: str | None = None,
    undo_s: float = UNDO_S,
) -> Comparison:
    """Keep a vote on two answers that this person was shown; errors as for `vote_on_turn`."""
    earlier = votes_of(session, person.id, shown.turn.id)
    if replaces is not None and replaces not in {row.id for row in earlier}:
        raise NotFoundError(f"you gave no vote {replaces!r} here that could be replaced")
    last = in_force(earlier)
    if replaces is None and last is not None and last.choice == WITHDRAWN:
        replaces = last.id
    # Whoever has settled a vote here before has been told the versions.
    blind = not may_know(earlier, undo_s)
    row = comparison_row(person, shown, ballot, replaces=replaces, blind=blind)
    return _insert(session, row)


def change_vote(
    session: Session, person: Person, vote_id: str, ballot: Ballot, undo_s: float = UNDO_S
) -> Comparison:
    """Replace a vote of one's own, wherever it was given, by another on the same two answers.

    NotFoundError for somebody else's, ConflictError where it is not in force any more.
    """
    old = own_vote(session, person, vote_id)
    shown = Shown(
        session.get_one(Turn, old.turn_id),
        session.get_one(Candidate, old.candidate_a_id),
        session.get_one(Candidate, old.candidate_b_id),
        old.pairing,
        old.probability,
    )
    return keep_vote(session, person, shown, ballot, old.id, undo_s)


def withdraw_vote(session: Session, person: Person, vote_id: str) -> Comparison:
    """Take a vote of one's own back: it is in no training from now on; errors as for
    `change_vote`. One that was withdrawn already stays so."""
    old = own_vote(session, person, vote_id)
    if old.choice == WITHDRAWN:
        return old
    return _insert(session, withdrawal(old))


def own_vote(session: Session, person: Person, vote_id: str) -> Comparison:
    """A vote this person gave; NotFoundError where there is none, or it is somebody else's."""
    row = session.get(Comparison, vote_id)
    if row is None or row.person_id != person.id:
        raise NotFoundError(f"you gave no vote {vote_id!r}")
    return row


def reveal(session: Session, person: Person, vote_id: str, undo_s: float = UNDO_S) -> Reveal | None:
    """Which versions wrote the two answers of a vote; None while it is not settled, or where it
    was withdrawn before it was. NotFoundError for somebody else's."""
    vote = own_vote(session, person, vote_id)
    if not may_know(votes_of(session, person.id, vote.turn_id), undo_s):
        return None
    first, second = (_told(session, side) for side in (vote.candidate_a_id, vote.candidate_b_id))
    chosen = vote.choice if vote.choice in ("A", "B") else None
    return Reveal(first[0], second[0], first[1], second[1], chosen)


def knows_versions(session: Session, person_id: str, turn_id: str, undo_s: float = UNDO_S) -> bool:
    """Whether this person may be told which versions answered a turn with two answers."""
    return may_know(votes_of(session, person_id, turn_id), undo_s)


def may_know(votes: Sequence[Comparison], undo_s: float = UNDO_S) -> bool:
    """Whether somebody who gave these votes on a turn may be told its versions: one of them was
    in force for `undo_s` seconds."""
    ended = {row.replaces_id: row.created_at for row in votes if row.replaces_id}
    return any(
        row.choice != WITHDRAWN
        and ended.get(row.id, now()) - row.created_at >= timedelta(seconds=undo_s)
        for row in votes
    )


def is_past(moment: datetime, undo_s: float = UNDO_S) -> bool:
    """Whether a vote of that moment can no longer be undone."""
    return now() - moment >= timedelta(seconds=undo_s)


def current_comparisons(
    session: Session, settled_before: datetime | None = None
) -> Sequence[Comparison]:
    """The comparisons that say something of the answers and are in force, oldest first: not
    replaced, withdrawn or skipped, not in a deleted conversation, and with `settled_before`
    given before that moment."""
    later = aliased(Comparison)
    query = select(Comparison).where(
        col(Comparison.choice).in_(TRAINED_CHOICES),
        ~select(later.id).where(col(later.replaces_id) == col(Comparison.id)).exists(),
        col(Comparison.turn_id).not_in(deleted_turns()),
    )
    if settled_before is not None:
        # Simulated people undo nothing.
        query = query.where(
            (col(Comparison.created_at) < settled_before) | col(Comparison.simulated)
        )
    return session.exec(query.order_by(col(Comparison.created_at), col(Comparison.id))).all()


def compared_sides(session: Session, turn: Turn) -> dict[str, Candidate]:
    """A turn's two whole answers by side; InvalidInputError where there are none to compare."""
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


def _told(session: Session, candidate_id: str) -> tuple[int, bool]:
    candidate = session.get_one(Candidate, candidate_id)
    return session.get_one(PolicyVersion, candidate.version_id).number, candidate.canary


def _insert(session: Session, row: Comparison) -> Comparison:
    """Insert by one statement, so that of two votes at the same time one is refused."""
    if not insert_unless_there(session, row):
        if row.replaces_id is not None:
            raise ConflictError(
                f"vote {row.replaces_id} was replaced already; name the vote that replaced it"
            )
        raise ConflictError(
            f"you voted on turn {row.turn_id} already; to change it, give the id of that vote "
            "as `replaces`"
        )
    vote_pairs.count_votes(session, row.turn_id)
    log.info("vote_recorded", kind="comparison", vote=row.id, simulated=row.simulated)
    return session.get_one(Comparison, row.id)
