"""The voting page's queue: who is shown which pair next, and what they said of it.

A person sees pairs of their own conversations and of simulated ones, and a reviewer also other
people's where `voting.share_questions` says so; never one of a deleted conversation, nor
another's with a passage that they may not read. First come the pairs that the reward heads
disagree on, then those with the fewest votes. A pair is lent to one person at a time. Now and
then a check stands in its place (vote_checks.py), which nobody can tell from a pair.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

import structlog
from sqlalchemy import or_, update
from sqlmodel import Session, col, select, tuple_
from sqlmodel.sql.expression import Select

from service import vote_checks
from service.ballots import Ballot, Shown
from service.database import changed_rows
from service.errors import InvalidInputError, NotFoundError
from service.settings import VotingSettings
from service.tables import Candidate, Comparison, Conversation, Person, Turn, now
from service.vote_offers import OfferedAnswers, answers_of, may_read_passages
from service.vote_pairs import EVERYONE, forget
from service.voting import UNDO_S, compared_sides, keep_vote
from service.voting_tables import CheckVote, VoteOffer, VotePair

LEASE = timedelta(minutes=5)
"""How long a pair is lent to one voter."""
STILL_WRITTEN = timedelta(hours=1)
"""An answer that has not ended after this never will."""
PAGE = 20
"""Pairs of a pool that are read at a time."""
MOST_LOOKED_AT = 500
"""Pairs of each pool that are looked at for those that a person may see."""

log = structlog.get_logger(__name__)
_chance = random.SystemRandom()
_ORDER = (
    col(VotePair.certainty),
    col(VotePair.votes),
    col(VotePair.created_at),
    col(VotePair.turn_id),
)


@dataclass(frozen=True, slots=True)
class Voter:
    """Who votes: the person, the groups whose documents they read, and whether they review."""

    person: Person
    groups: Sequence[str]
    reviews: bool


def next_offer(session: Session, voter: Voter, settings: VotingSettings) -> OfferedAnswers | None:
    """Two answers for this person to choose from; None where nothing waits for them."""
    # Checks stand among pairs; they keep no empty queue going.
    if not waiting_for(session, voter, settings, most=1):
        return None
    offer = None
    if _chance.random() < settings.check_share:
        offer = vote_checks.new_check(session, voter.person, settings.check_share)
    offer = offer or _next_pair(session, voter, settings)
    return None if offer is None else answers_of(session, offer, voter.groups)


def vote_on_offer(
    session: Session, person: Person, offer_id: str, ballot: Ballot, undo_s: float = UNDO_S
) -> Comparison | CheckVote:
    """Keep what this person chose of what they were offered.

    NotFoundError for an offer to somebody else, ConflictError where they voted already.
    """
    offer = session.get(VoteOffer, offer_id)
    if offer is None or offer.person_id != person.id:
        raise NotFoundError(f"you were offered no pair {offer_id!r}")
    offer.decided_at = now()
    session.add(offer)
    if offer.kind != "pair":
        return vote_checks.keep_check(session, person, offer, ballot)
    turn = session.get_one(Turn, str(offer.turn_id))
    first, second = (session.get_one(Candidate, n) for n in (offer.first_id, offer.second_id))
    shown = Shown(turn, first, second, "queue", offer.probability)
    return keep_vote(session, person, shown, ballot, undo_s=undo_s)


def waiting_for(session: Session, voter: Voter, settings: VotingSettings, most: int) -> int:
    """How many pairs wait for this person, counted up to `most`: those that they may see among the
    first MOST_LOOKED_AT of each pool, also while lent to others. A pair whose answers are alike or
    unfinished counts until it is looked at."""
    waiting = _visible(session, voter, settings, now_leased=True)
    return sum(1 for _ in islice(waiting, most))


def _next_pair(session: Session, voter: Voter, settings: VotingSettings) -> VoteOffer | None:
    for pair, turn in _visible(session, voter, settings, now_leased=False):
        try:
            sides = compared_sides(session, turn)
        except InvalidInputError:
            _forget_if_over(session, pair)
            continue
        if sides["A"].text.strip() == sides["B"].text.strip():
            forget(session, [pair.turn_id])
            continue
        if _lend(session, pair, voter.person):
            return _offered(session, voter.person, turn, sides, settings)
    return None


def _visible(
    session: Session, voter: Voter, settings: VotingSettings, *, now_leased: bool
) -> Iterator[tuple[VotePair, Turn]]:
    """The pairs of every pool that this person may see, in the queue's order."""
    pools = [
        islice(_paged(session, query), MOST_LOOKED_AT)
        for query in _queries(voter, settings, now_leased=now_leased)
    ]
    for pair, turn in heapq.merge(*pools, key=lambda row: _place(row[0])):
        own = pair.person_id == voter.person.id
        if own or may_read_passages(session, turn, voter.groups):
            yield pair, turn


def _paged(session: Session, query: Select[VotePair, Turn]) -> Iterator[tuple[VotePair, Turn]]:
    """All rows of a query in the queue's order, read page by page as they are wanted."""
    rows = session.exec(query.limit(PAGE)).all()
    while rows:
        last = _place(rows[-1][0])
        yield from rows
        rows = session.exec(query.where(tuple_(*_ORDER) > last).limit(PAGE)).all()


def _place(pair: VotePair) -> tuple[float, int, datetime, str]:
    """Where a pair stands in `_ORDER`."""
    return pair.certainty, pair.votes, pair.created_at, pair.turn_id


def _queries(
    voter: Voter, settings: VotingSettings, *, now_leased: bool
) -> Iterator[Select[VotePair, Turn]]:
    """One query a pool, each served by an index in the queue's order."""
    person_id = voter.person.id
    voted = select(Comparison.id).where(
        col(Comparison.turn_id) == col(VotePair.turn_id), col(Comparison.person_id) == person_id
    )
    free = or_(
        col(VotePair.lease_expires_at).is_(None),
        col(VotePair.lease_expires_at) < now(),
        col(VotePair.lease_holder) == person_id,
    )
    base = (
        select(VotePair, Turn)
        .join(Turn, col(Turn.id) == col(VotePair.turn_id))
        .join(Conversation, col(Conversation.id) == col(Turn.conversation_id))
        .where(
            col(VotePair.state) == "waiting",
            col(Conversation.deleted_at).is_(None),
            ~voted.exists(),
        )
        .order_by(*_ORDER)
    )
    if not now_leased:
        base = base.where(free)
    yield base.where(col(VotePair.pool) == person_id)
    others = base.where(col(Turn.restricted).is_(False))
    yield others.where(col(VotePair.pool) == EVERYONE)
    if settings.share_questions and voter.reviews:
        yield others.where(col(VotePair.pool).not_in([person_id, EVERYONE]))


def _lend(session: Session, pair: VotePair, person: Person) -> bool:
    """Lend the pair to this person unless somebody else was first."""
    moment = now()
    free = or_(
        col(VotePair.lease_expires_at).is_(None),
        col(VotePair.lease_expires_at) < moment,
        col(VotePair.lease_holder) == person.id,
    )
    lent = (
        update(VotePair)
        .where(col(VotePair.turn_id) == pair.turn_id, col(VotePair.state) == "waiting", free)
        .values(lease_holder=person.id, lease_expires_at=moment + LEASE)
    )
    return changed_rows(session.execute(lent)) == 1


def _offered(
    session: Session,
    person: Person,
    turn: Turn,
    sides: dict[str, Candidate],
    settings: VotingSettings,
) -> VoteOffer:
    """Keep what is shown; sides are drawn anew for each voter."""
    first, second = _chance.sample([sides["A"].id, sides["B"].id], 2)
    offer = VoteOffer(
        person_id=person.id,
        turn_id=turn.id,
        first_id=first,
        second_id=second,
        probability=1 - settings.check_share,
    )
    session.add(offer)
    session.flush()
    return offer


def _forget_if_over(session: Session, pair: VotePair) -> None:
    """A pair whose answers are still being written is left for later."""
    if now() - pair.created_at > STILL_WRITTEN:
        forget(session, [pair.turn_id])
