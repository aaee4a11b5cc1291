"""What somebody voted: the vote in force among those that replace one another, and the answer that
it chose.

A choice of A or B names a side as it was shown for that vote. On the voting page sides are drawn
anew, so they need not be those of the turn: what was chosen is a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sqlmodel import Session, select

from service.tables import Comparison, Thumb
from service.voting_tables import CheckVote

Vote = TypeVar("Vote", Comparison, Thumb, CheckVote)


def in_force(votes: Sequence[Vote]) -> Vote | None:
    """The one that no other replaces, of a person's votes on one thing; None without any."""
    replaced = {row.replaces_id for row in votes}
    return next((row for row in votes if row.id not in replaced), None)


def votes_of(session: Session, person_id: str, turn_id: str) -> Sequence[Comparison]:
    """All comparisons of a turn's answers by this person, replaced ones too."""
    query = select(Comparison).where(
        Comparison.turn_id == turn_id, Comparison.person_id == person_id
    )
    return session.exec(query).all()


def chosen_by(vote: Comparison | None) -> str | None:
    """The candidate that a vote chose; None where it chose neither."""
    if vote is None:
        return None
    return {"A": vote.candidate_a_id, "B": vote.candidate_b_id}.get(vote.choice)


def chosen_answer(session: Session, person_id: str, turn_id: str) -> str | None:
    """The candidate that this person chose of a turn's two, None where they chose neither."""
    return chosen_by(in_force(votes_of(session, person_id, turn_id)))
