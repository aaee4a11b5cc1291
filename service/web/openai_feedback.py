"""Journey 2 for clients of the OpenAI-compatible API: `POST /v1/feedback`.

An answer is named by its choice's id, or by the completion's where there is one choice.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import post
from litestar.params import JSONBody
from sqlmodel import Session, col, select

from service import feedback
from service.ballots import Ballot
from service.database import session
from service.tables import Candidate, Conversation, Person, Turn
from service.voting import vote_on_turn
from service.web.openai_answer import ID_PREFIX
from service.web.openai_errors import ParameterError
from service.web.parts import GivenParts
from service.web.rights import key_only
from service.web.sessions import GivenPerson


class ThumbFeedback(msgspec.Struct, tag_field="type", tag="thumb", forbid_unknown_fields=True):
    """Up or down on one answer, with a short reason and a comment."""

    id: str
    value: Literal["up", "down"]
    reason: str | None = None
    comment: str | None = None
    replaces: str | None = None


class ComparisonFeedback(
    msgspec.Struct, tag_field="type", tag="comparison", forbid_unknown_fields=True
):
    """A choice between the two answers of one completion: A is choices[0], B is choices[1]."""

    id: str
    choice: Literal["A", "B", "tie", "both_bad"]
    strength: Literal["slightly", "much"] | None = None
    decision_ms: int | None = None
    replaces: str | None = None


class CorrectionFeedback(
    msgspec.Struct, tag_field="type", tag="correction", forbid_unknown_fields=True
):
    """What the answer should have been."""

    id: str
    answer: str


Feedback = ThumbFeedback | ComparisonFeedback | CorrectionFeedback


class RecordedFeedback(msgspec.Struct):
    """What was recorded; its id is given as `replaces` to change a vote."""

    id: str
    type: str
    object: Literal["feedback"] = "feedback"


@post(
    "/v1/feedback",
    status_code=200,
    security=key_only("feedback"),
    tags=["OpenAI"],
    summary="Say something of an answer",
    sync_to_thread=True,
)
def give_feedback(
    caller: GivenPerson, parts: GivenParts, data: JSONBody[Feedback]
) -> RecordedFeedback:
    """Record a thumb, a comparison or a correction on answers one was given."""
    with session(parts.database) as opened:
        number = _record(opened, caller, data, parts.settings.voting.undo_s)
    return RecordedFeedback(number, str(type(data).__struct_config__.tag))


def _record(opened: Session, caller: Person, data: Feedback, undo_s: float) -> str:
    named = data.id.removeprefix(ID_PREFIX)
    if isinstance(data, ComparisonFeedback):
        ballot = Ballot(data.choice, data.strength, decision_ms=data.decision_ms)
        turn_id = _turn(opened, named)
        return vote_on_turn(opened, caller, turn_id, ballot, data.replaces, undo_s).id
    answer = _answer(opened, caller, named)
    if isinstance(data, CorrectionFeedback):
        return feedback.propose_correction(opened, caller, answer, data.answer).id
    value = 1 if data.value == "up" else -1
    said = (data.reason, data.comment, data.replaces)
    return feedback.record_thumb(opened, caller, answer, value, *said).id


def _turn(opened: Session, named: str) -> str:
    """The turn of an answer, or the turn itself; whose it is is checked later."""
    candidate = opened.get(Candidate, named)
    return named if candidate is None else candidate.turn_id


def _answer(opened: Session, caller: Person, named: str) -> str:
    """The answer, or the only one of a turn of the caller's."""
    query = (
        select(Candidate.id)
        .join(Turn, col(Turn.id) == col(Candidate.turn_id))
        .join(Conversation, col(Conversation.id) == col(Turn.conversation_id))
        .where(Candidate.turn_id == named, Conversation.person_id == caller.id)
    )
    choices = opened.exec(query).all()
    if len(choices) > 1:
        raise ParameterError(
            f"the completion has {len(choices)} answers; give the id of one choice", "id"
        )
    return choices[0] if choices else named
