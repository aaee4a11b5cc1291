"""Journey 2 over HTTP: comparisons, thumbs and corrected answers."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import post
from litestar.params import FromPath, JSONBody

from service import feedback
from service.database import session
from service.web.parts import GivenParts
from service.web.sessions import GivenPerson


class ComparisonVote(msgspec.Struct, forbid_unknown_fields=True):
    """A choice between the two answers of a turn. `decision_ms` is the time it took, from both
    answers shown; `replaces` the id of one's comparison in force, to change it."""

    choice: Literal["A", "B", "tie", "both_bad"]
    strength: Literal["slightly", "much"] | None = None
    decision_ms: int | None = None
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


@post("/api/turns/{turn_id:str}/comparison", tags=["Feedback"], sync_to_thread=True)
def compare(
    person: GivenPerson, parts: GivenParts, turn_id: FromPath[str], data: JSONBody[ComparisonVote]
) -> Recorded:
    """Choose between the two answers of a turn of one's own."""
    with session(parts.database) as opened:
        row = feedback.record_comparison(
            opened, person, turn_id, data.choice, data.strength, data.decision_ms, data.replaces
        )
    return Recorded(row.id)


@post("/api/candidates/{candidate_id:str}/thumb", tags=["Feedback"], sync_to_thread=True)
def thumb(
    person: GivenPerson, parts: GivenParts, candidate_id: FromPath[str], data: JSONBody[ThumbVote]
) -> Recorded:
    """Say up or down to an answer one was given."""
    with session(parts.database) as opened:
        row = feedback.record_thumb(
            opened, person, candidate_id, data.value, data.reason, data.comment, data.replaces
        )
    return Recorded(row.id)


@post("/api/candidates/{candidate_id:str}/correction", tags=["Feedback"], sync_to_thread=True)
def correct(
    person: GivenPerson, parts: GivenParts, candidate_id: FromPath[str], data: JSONBody[Correction]
) -> Recorded:
    """Propose what the answer should have been; somebody accepts it before it is trained on."""
    with session(parts.database) as opened:
        row = feedback.propose_correction(opened, person, candidate_id, data.answer)
    return Recorded(row.id)
