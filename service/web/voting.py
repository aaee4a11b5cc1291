"""Journey 2 over HTTP: comparisons, thumbs and corrected answers."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import post
from litestar.params import FromPath, JSONBody

from service import feedback
from service.ballots import Ballot
from service.database import session
from service.voting import vote_on_turn
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenPerson


class BallotBody(msgspec.Struct, forbid_unknown_fields=True):
    """A choice between two answers. `decision_ms` is the time it took, from both answers shown;
    `interface` says which page of which version it was given on. A skip is kept and trains
    nothing."""

    choice: Literal["A", "B", "tie", "both_bad", "skip"]
    strength: Literal["slightly", "much"] | None = None
    reason: str | None = None
    decision_ms: int | None = None
    interface: str | None = None

    def ballot(self) -> Ballot:
        """As it is checked and kept."""
        return Ballot(self.choice, self.strength, self.reason, self.decision_ms, self.interface)


class ComparisonVote(BallotBody, forbid_unknown_fields=True):
    """A choice between the two answers of a turn; `replaces` is the id of one's comparison in
    force, to change it."""

    replaces: str | None = None


class ThumbVote(msgspec.Struct, forbid_unknown_fields=True):
    """Up (1) or down (-1) on an answer, with a short reason and a comment."""

    value: Literal[1, -1]
    reason: str | None = None
    comment: str | None = None
    replaces: str | None = None


class Correction(msgspec.Struct, forbid_unknown_fields=True):
    """What the answer should have been."""

    answer: str


class Recorded(msgspec.Struct):
    """The id of what was recorded; give it as `replaces` to change it."""

    id: str


class Voted(Recorded):
    """A vote. For `undo_s` seconds it can be undone without a trace in training; both versions
    are told after that."""

    undo_s: float


@post(
    "/api/turns/{turn_id:str}/comparison",
    tags=["Feedback"],
    security=needs("employee", "feedback"),
    sync_to_thread=True,
)
def compare(
    person: GivenPerson, parts: GivenParts, turn_id: FromPath[str], data: JSONBody[ComparisonVote]
) -> Voted:
    """Choose between the two answers of a turn of one's own."""
    undo_s = parts.settings.voting.undo_s
    with session(parts.database) as opened:
        row = vote_on_turn(opened, person, turn_id, data.ballot(), data.replaces, undo_s)
    return Voted(row.id, undo_s)


@post(
    "/api/candidates/{candidate_id:str}/thumb",
    tags=["Feedback"],
    security=needs("employee", "feedback"),
    sync_to_thread=True,
)
def thumb(
    person: GivenPerson, parts: GivenParts, candidate_id: FromPath[str], data: JSONBody[ThumbVote]
) -> Recorded:
    """Say up or down to an answer one was given."""
    with session(parts.database) as opened:
        row = feedback.record_thumb(
            opened, person, candidate_id, data.value, data.reason, data.comment, data.replaces
        )
    return Recorded(row.id)


@post(
    "/api/candidates/{candidate_id:str}/correction",
    tags=["Feedback"],
    security=needs("employee", "feedback"),
    sync_to_thread=True,
)
def correct(
    person: GivenPerson, parts: GivenParts, candidate_id: FromPath[str], data: JSONBody[Correction]
) -> Recorded:
    """Propose what the answer should have been; somebody accepts it before it is trained on."""
    with session(parts.database) as opened:
        row = feedback.propose_correction(opened, person, candidate_id, data.answer)
    return Recorded(row.id)
