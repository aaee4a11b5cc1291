"""Hidden checks among the pairs of the voting page: pairs whose answer is known.

Of a "gold" check one answer is right and the other answers another question; a "repeat" is a
pair the person chose from before, sides changed. What they say is kept apart from the votes,
so that nothing ever trains on it.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import func
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from rlhf_engine.snapshot import normalised
from service.ballots import WITHDRAWN, Ballot, bounded_ms
from service.citations import open_gold_answers
from service.database import insert_unless_there
from service.errors import ConflictError, NotFoundError
from service.given_votes import in_force
from service.tables import Comparison, Conversation, GoldAnswer, Person, Turn, new_id, now
from service.voting_tables import CheckVote, VoteOffer

REPEATED_AFTER = timedelta(minutes=10)
"""A pair comes a second time when the first is no longer fresh in mind."""
REPEATED_OF = 50
"""One of so many newest votes comes again."""

log = structlog.get_logger(__name__)
_chance = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Tally:
    """How many checks went well of how many."""

    passed: int
    of: int


@dataclass(frozen=True, slots=True)
class CheckedPerson:
    """How carefully one person votes, as their checks say."""

    id: str
    name: str
    gold: Tally
    repeat: Tally


def new_check(session: Session, person: Person, probability: float) -> VoteOffer | None:
    """A check for this person, of either kind as there is one; None where there is nothing to
    check with."""
    makers = _chance.sample([_repeat, _gold], 2)
    for make in makers:
        offer = make(session, person, probability)
        if offer is not None:
            session.add(offer)
            session.flush()
            return offer
    return None


def keep_check(session: Session, person: Person, offer: VoteOffer, ballot: Ballot) -> CheckVote:
    """Keep what this person said in a check; ConflictError where they did already."""
    last = _last(session, offer.id)
    if last is not None and last.choice != WITHDRAWN:
        raise ConflictError("you voted on this pair already; withdraw that vote to change it")
    row = CheckVote(
        offer_id=offer.id,
        person_id=person.id,
        kind=offer.kind,
        choice=ballot.choice,
        passed=None if ballot.choice == "skip" else ballot.choice == offer.expected,
        decision_ms=bounded_ms(ballot.decision_ms),
        interface=ballot.interface,
        replaces_id=last.id if last else None,
    )
    return _insert(session, row)


def withdraw_check(session: Session, person: Person, check_id: str) -> CheckVote:
    """Take what one said in a check back; NotFoundError for somebody else's."""
    old = own_check(session, person, check_id)
    if old.choice == WITHDRAWN:
        return old
    kept = old.model_dump(include={"offer_id", "person_id", "kind", "interface"})
    return _insert(session, CheckVote(**kept, choice=WITHDRAWN, replaces_id=old.id))


def own_check(session: Session, person: Person, check_id: str) -> CheckVote:
    """What this person said in a check; NotFoundError where there is none."""
    row = session.get(CheckVote, check_id)
    if row is None or row.person_id != person.id:
        raise NotFoundError(f"you gave no vote {check_id!r}")
    return row


def tally(session: Session, person_id: str, kind: str) -> Tally:
    """How one person's checks of a kind went."""
    later = aliased(CheckVote)
    query = (
        select(CheckVote.passed, func.count())
        .where(
            CheckVote.person_id == person_id,
            CheckVote.kind == kind,
            col(CheckVote.passed).is_not(None),
            ~select(later.id).where(col(later.replaces_id) == col(CheckVote.id)).exists(),
        )
        .group_by(col(CheckVote.passed))
    )
    counts = {bool(passed): count for passed, count in session.exec(query)}
    passed = counts.get(True, 0)
    return Tally(passed, passed + counts.get(False, 0))


def checked_people(session: Session) -> list[CheckedPerson]:
    """How everybody's checks went, those who failed most first."""
    later = aliased(CheckVote)
    query = (
        select(CheckVote.person_id, CheckVote.kind, CheckVote.passed, func.count())
        .where(
            col(CheckVote.passed).is_not(None),
            ~select(later.id).where(col(later.replaces_id) == col(CheckVote.id)).exists(),
        )
        .group_by(col(CheckVote.person_id), col(CheckVote.kind), col(CheckVote.passed))
    )
    counts: dict[str, Counter[tuple[str, bool]]] = defaultdict(Counter)
    for person_id, kind, passed, count in session.exec(query):
        counts[person_id][kind, bool(passed)] += count
    people = [
        CheckedPerson(
            person_id,
            session.get_one(Person, person_id).name,
            _tally(found, "gold"),
            _tally(found, "repeat"),
        )
        for person_id, found in counts.items()
    ]
    return sorted(people, key=lambda row: (row.gold.passed - row.gold.of, row.name))


def _tally(counts: Counter[tuple[str, bool]], kind: str) -> Tally:
    return Tally(counts[kind, True], counts[kind, True] + counts[kind, False])


def _repeat(session: Session, person: Person, probability: float) -> VoteOffer | None:
    """A pair this person chose from, sides changed; each comes again once."""
    later = aliased(Comparison)
    again = select(VoteOffer.id).where(
        col(VoteOffer.turn_id) == col(Comparison.turn_id),
        col(VoteOffer.person_id) == person.id,
        col(VoteOffer.kind) == "repeat",
    )
    query = (
        select(Comparison)
        .join(Turn, col(Turn.id) == col(Comparison.turn_id))
        .join(Conversation, col(Conversation.id) == col(Turn.conversation_id))
        .where(
            col(Comparison.person_id) == person.id,
            col(Comparison.choice).in_(("A", "B")),
            col(Comparison.created_at) < now() - REPEATED_AFTER,
            col(Conversation.deleted_at).is_(None),
            ~select(later.id).where(col(later.replaces_id) == col(Comparison.id)).exists(),
            ~again.exists(),
        )
        .order_by(col(Comparison.created_at).desc())
        .limit(REPEATED_OF)
    )
    votes: Sequence[Comparison] = session.exec(query).all()
    if not votes:
        return None
    vote = _chance.choice(votes)
    return VoteOffer(
        person_id=person.id,
        kind="repeat",
        turn_id=vote.turn_id,
        first_id=vote.candidate_b_id,
        second_id=vote.candidate_a_id,
        expected="B" if vote.choice == "A" else "A",
        probability=probability,
    )


def _gold(session: Session, person: Person, probability: float) -> VoteOffer | None:
    """A right answer beside one to another question."""
    right, other = _some_gold(session), _some_gold(session)
    if right is None or other is None:
        return None
    if normalised(right.question) == normalised(other.question) or _alike(right, other):
        return None
    # What corrects an answer from a document that only some may read is shown to nobody here.
    if len(open_gold_answers(session, [right, other])) < 2:
        return None
    sides = _chance.sample([right, other], 2)
    return VoteOffer(
        person_id=person.id,
        kind="gold",
        first_id=sides[0].id,
        second_id=sides[1].id,
        expected="A" if sides[0] is right else "B",
        probability=probability,
    )


def _some_gold(session: Session) -> GoldAnswer | None:
    """A gold answer by chance; ids are random, so the next above a random one is."""
    usable = select(GoldAnswer).where(
        GoldAnswer.state == "accepted", GoldAnswer.purpose == "training"
    )
    above = usable.where(col(GoldAnswer.id) >= new_id()).order_by(col(GoldAnswer.id)).limit(1)
    return (
        session.exec(above).first()
        or session.exec(usable.order_by(col(GoldAnswer.id)).limit(1)).first()
    )


def _alike(one: GoldAnswer, other: GoldAnswer) -> bool:
    return normalised(one.answer) == normalised(other.answer)


def _last(session: Session, offer_id: str) -> CheckVote | None:
    return in_force(session.exec(select(CheckVote).where(CheckVote.offer_id == offer_id)).all())


def _insert(session: Session, row: CheckVote) -> CheckVote:
    if not insert_unless_there(session, row):
        raise ConflictError(f"vote {row.replaces_id} was replaced already")
    log.info("vote_recorded", kind="check", vote=row.id)
    return session.get_one(CheckVote, row.id)
