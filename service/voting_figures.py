"""What a voter may know of their own voting: how much, how steady, how like the others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import case
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select

from service import vote_checks
from service.ballots import TRAINED_CHOICES
from service.tables import Comparison, now
from service.vote_checks import Tally

MOST_COMPARED = 1_000
"""Newest votes of a person that are compared with other people's."""


@dataclass(frozen=True, slots=True)
class OwnVoting:
    """Votes today (UTC) and in all; on how many pairs that others voted on too one agrees, how
    often one chose the same when a pair came again, and how many checks went well."""

    today: int
    total: int
    agreement: Tally
    consistency: Tally
    checks: Tally


def own_voting(session: Session, person_id: str) -> OwnVoting:
    """This person's figures."""
    midnight = datetime.combine(now().date(), datetime.min.time(), UTC)
    return OwnVoting(
        today=_count(session, person_id, midnight),
        total=_count(session, person_id, None),
        agreement=agreement(session, person_id),
        consistency=vote_checks.tally(session, person_id, "repeat"),
        checks=vote_checks.tally(session, person_id, "gold"),
    )


def agreement(session: Session, person_id: str) -> Tally:
    """On how many pairs this person chose what others chose, of their votes beside another's.

    Each vote of another person on the same pair counts once; the newest votes are looked at.
    """
    later = aliased(Comparison)
    mine = (
        select(Comparison.turn_id, _chosen(Comparison).label("chosen"))
        .where(
            col(Comparison.person_id) == person_id,
            col(Comparison.choice).in_(TRAINED_CHOICES),
            ~select(later.id).where(col(later.replaces_id) == col(Comparison.id)).exists(),
        )
        .order_by(col(Comparison.created_at).desc())
        .limit(MOST_COMPARED)
        .subquery()
    )
    other, newer = aliased(Comparison), aliased(Comparison)
    same = case((mine.c.chosen == _chosen(other), 1), else_=0)
    query = (
        select(func.count(), func.coalesce(func.sum(same), 0))
        .select_from(mine)
        .join(other, col(other.turn_id) == mine.c.turn_id)
        .where(
            col(other.person_id) != person_id,
            col(other.choice).in_(TRAINED_CHOICES),
            ~select(newer.id).where(col(newer.replaces_id) == col(other.id)).exists(),
        )
    )
    of, passed = session.exec(query).one()
    return Tally(int(passed), int(of))


def _chosen(row: Any) -> Any:
    """What a vote chose, whichever side it stood on."""
    return case(
        (row.choice == "A", row.candidate_a_id),
        (row.choice == "B", row.candidate_b_id),
        else_=row.choice,
    )


def _count(session: Session, person_id: str, since: datetime | None) -> int:
    later = aliased(Comparison)
    query = select(func.count()).where(
        col(Comparison.person_id) == person_id,
        col(Comparison.choice).in_(TRAINED_CHOICES),
        ~select(later.id).where(col(later.replaces_id) == col(Comparison.id)).exists(),
    )
    if since is not None:
        query = query.where(col(Comparison.created_at) >= since)
    return session.exec(query).one()
