"""Pairs to vote on: why a turn got two answers, how many votes it has, how unsure the heads are.

A person is asked to compare at most so many times a day (UTC), so that nobody tires of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, func, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from service.ballots import TRAINED_CHOICES
from service.database import insert_unless_there, session
from service.settings import Settings
from service.tables import Comparison, Conversation, Turn, now
from service.voting_tables import VotePair

EVERYONE = "everyone"
"""The pool of pairs that hold nobody's own questions."""

_chance = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Pairing:
    """Whether a turn gets two answers, why, and how likely that was."""

    compared: bool
    reason: str
    probability: float


def draw(
    database: Engine, settings: Settings, person_id: str, wanted: bool | None = None
) -> Pairing:
    """Decide for a question of this person. Whoever says what they want gets it; by chance two
    answers come at most `voting.comparisons_a_day` times a day."""
    if wanted is not None:
        return Pairing(wanted, "requested", 1.0)
    share = settings.answers.compare_share
    if _chance.random() >= share:
        return Pairing(False, "ordinary", share)
    with session(database) as opened:
        left = budget_left(opened, person_id, settings.voting.comparisons_a_day)
    return Pairing(left > 0, "ordinary", share)


def budget_left(opened: Session, person_id: str, a_day: int) -> int:
    """How many more comparisons this person may be asked for today (UTC). Pairs in their own
    conversations count, and their votes on the voting page."""
    midnight = datetime.combine(now().date(), datetime.min.time(), UTC)
    asked = select(func.count()).where(
        col(VotePair.person_id) == person_id, col(VotePair.created_at) >= midnight
    )
    voted = select(func.count()).where(
        col(Comparison.person_id) == person_id,
        col(Comparison.created_at) >= midnight,
        col(Comparison.pairing) == "queue",
        col(Comparison.replaces_id).is_(None),
    )
    return max(0, a_day - opened.exec(asked).one() - opened.exec(voted).one())


def keep(
    opened: Session, turn: Turn, person_id: str, pairing: Pairing, overlap_share: float = 0.0
) -> None:
    """Note that this turn of `person_id` was given two answers."""
    row = VotePair(
        turn_id=turn.id,
        person_id=person_id,
        pool=EVERYONE if turn.simulated else person_id,
        pairing="simulated" if turn.simulated else pairing.reason,
        probability=pairing.probability,
        wanted=2 if _chance.random() < overlap_share else 1,
    )
    insert_unless_there(opened, row)


def ensure(opened: Session, turn: Turn, person_id: str) -> VotePair:
    """The pair of a turn of this person, noted now where it was not: two answers came without
    being drawn."""
    pair = opened.get(VotePair, turn.id)
    if pair is None:
        keep(opened, turn, person_id, Pairing(True, "requested", 1.0))
        pair = opened.get_one(VotePair, turn.id)
    return pair


def count_votes(opened: Session, turn_id: str) -> None:
    """Bring the number of a pair's votes up to date; one with enough leaves the queue."""
    later = aliased(Comparison)
    voted = select(func.count()).where(
        col(Comparison.turn_id) == turn_id,
        col(Comparison.choice).in_(TRAINED_CHOICES),
        ~select(later.id).where(col(later.replaces_id) == col(Comparison.id)).exists(),
    )
    votes = opened.exec(voted).one()
    pair = opened.get(VotePair, turn_id)
    if pair is None:
        return
    done = votes >= pair.wanted
    opened.exec(
        update(VotePair)
        .where(col(VotePair.turn_id) == turn_id)
        .values(
            votes=votes,
            state="done" if done else "waiting",
            lease_holder=None,
            lease_expires_at=None,
        )
    )


def waiting(opened: Session, limit: int) -> list[str]:
    """Turns that wait for a vote, the newest first: what a finished run shall read."""
    query = (
        select(VotePair.turn_id)
        .join(Turn, col(Turn.id) == col(VotePair.turn_id))
        .join(Conversation, col(Conversation.id) == col(Turn.conversation_id))
        .where(VotePair.state == "waiting", col(Conversation.deleted_at).is_(None))
        .order_by(col(VotePair.created_at).desc())
    )
    return list(opened.exec(query.limit(limit)))


def note_spreads(opened: Session, spreads: Mapping[str, float]) -> None:
    """Keep how far the reward heads' opinions of each turn's pair lie apart."""
    for turn_id, spread in spreads.items():
        opened.exec(
            update(VotePair).where(col(VotePair.turn_id) == turn_id).values(certainty=-spread)
        )


def forget(opened: Session, turn_ids: Iterable[str]) -> None:
    """Take pairs out of the queue for good."""
    for turn_id in turn_ids:
        opened.exec(
            update(VotePair).where(col(VotePair.turn_id) == turn_id).values(state="unusable")
        )
