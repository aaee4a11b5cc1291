"""The voting page over HTTP: the next pair, one's vote on it, and figures."""

from __future__ import annotations

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody
from sqlmodel import Session

from service import vote_checks, voting_queue
from service.database import session
from service.groups import readers_of
from service.roles import may
from service.tables import Person
from service.vote_checks import CheckedPerson
from service.vote_offers import OfferedAnswers
from service.vote_pairs import budget_left
from service.voting_figures import OwnVoting, own_voting
from service.voting_queue import Voter
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenPerson
from service.web.voting import BallotBody, Voted

MOST_COUNTED = 100


class NextPair(msgspec.Struct):
    """Two answers to choose from; null where nothing waits."""

    offer: OfferedAnswers | None


class VotingFigures(msgspec.Struct):
    """How one's own voting stands. `waiting` counts to 100; `left_today` is how many comparisons
    the chat may still ask for today (UTC)."""

    waiting: int
    left_today: int
    own: OwnVoting


@post(
    "/api/vote-queue",
    status_code=200,
    tags=["Feedback"],
    security=needs("employee", "feedback"),
    sync_to_thread=True,
)
def next_pair(person: GivenPerson, parts: GivenParts) -> NextPair:
    """The pair that one's vote would teach the most about; it is lent to nobody else for five
    minutes. Nothing tells which version wrote which answer."""
    with session(parts.database) as opened:
        offer = voting_queue.next_offer(opened, _voter(opened, person), parts.settings.voting)
    return NextPair(offer)


@post(
    "/api/vote-queue/{offer_id:str}",
    tags=["Feedback"],
    security=needs("employee", "feedback"),
    sync_to_thread=True,
)
def vote_on_pair(
    person: GivenPerson, parts: GivenParts, offer_id: FromPath[str], data: JSONBody[BallotBody]
) -> Voted:
    """Choose between two answers one was offered."""
    undo_s = parts.settings.voting.undo_s
    with session(parts.database) as opened:
        row = voting_queue.vote_on_offer(opened, person, offer_id, data.ballot(), undo_s)
    return Voted(row.id, undo_s)


@get(
    "/api/vote-queue/figures",
    tags=["Feedback"],
    security=needs("employee", "feedback"),
    sync_to_thread=True,
)
def voting_figures(person: GivenPerson, parts: GivenParts) -> VotingFigures:
    """How much one voted, how steadily, and how like others."""
    voting = parts.settings.voting
    with session(parts.database) as opened:
        waiting = voting_queue.waiting_for(opened, _voter(opened, person), voting, MOST_COUNTED)
        return VotingFigures(
            waiting=min(waiting, MOST_COUNTED),
            left_today=budget_left(opened, person.id, voting.comparisons_a_day),
            own=own_voting(opened, person.id),
        )


@get(
    "/api/vote-checks",
    tags=["Review"],
    security=needs("reviewer", "read"),
    sync_to_thread=True,
)
def list_checks(reviewer: GivenPerson, parts: GivenParts) -> list[CheckedPerson]:
    """How carefully people vote, as the hidden checks say."""
    del reviewer
    with session(parts.database) as opened:
        return vote_checks.checked_people(opened)


def _voter(opened: Session, person: Person) -> Voter:
    return Voter(person, readers_of(opened, person), may(person.role, "reviewer"))
