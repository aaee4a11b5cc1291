"""One's own conversations, with the feedback given in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from litestar import get
from litestar.params import FromPath
from sqlmodel import Session, col, select

from service.conversations import own_conversation
from service.database import session
from service.tables import (
    Candidate,
    Comparison,
    Conversation,
    GoldAnswer,
    Person,
    PolicyVersion,
    Thumb,
    Turn,
)
from service.turn_events import ShownPassage
from service.web.parts import GivenParts
from service.web.sessions import GivenPerson

MOST_CONVERSATIONS = 100

Vote = TypeVar("Vote", Comparison, Thumb)


class ConversationEntry(msgspec.Struct):
    """A conversation in the list."""

    id: str
    title: str
    created_at: datetime
    simulated: bool


class GivenThumb(msgspec.Struct):
    """One's thumb in force."""

    id: str
    value: int
    reason: str | None
    comment: str | None


class GivenComparison(msgspec.Struct):
    """One's comparison in force."""

    id: str
    choice: str
    strength: str | None


class Answer(msgspec.Struct):
    """An answer with what one said of it. `version` is the policy version's number."""

    id: str
    side: str
    text: str
    finish_reason: str
    version: int
    simulated: bool
    created_at: datetime
    thumb: GivenThumb | None
    correction: str | None


class TurnEntry(msgspec.Struct):
    """A question with its answers; `running` says that they are still being written."""

    id: str
    question: str
    running: bool
    compared: bool
    simulated: bool
    created_at: datetime
    passages: list[ShownPassage]
    answers: list[Answer]
    comparison: GivenComparison | None


class ConversationDetail(ConversationEntry):
    """A conversation with all its turns, oldest first."""

    turns: list[TurnEntry]


@get("/api/conversations", tags=["Chat"], sync_to_thread=True)
def list_conversations(person: GivenPerson, parts: GivenParts) -> list[ConversationEntry]:
    """One's own conversations, the newest first."""
    query = select(Conversation).where(Conversation.person_id == person.id)
    with session(parts.database) as opened:
        newest = query.order_by(col(Conversation.created_at).desc()).limit(MOST_CONVERSATIONS)
        return [ConversationEntry(**_entry(row)) for row in opened.exec(newest)]


@get("/api/conversations/{conversation_id:str}", tags=["Chat"], sync_to_thread=True)
def show_conversation(
    person: GivenPerson, parts: GivenParts, conversation_id: FromPath[str]
) -> ConversationDetail:
    """One of one's own conversations."""
    with session(parts.database) as opened:
        conversation = own_conversation(opened, person, conversation_id)
        turns = opened.exec(
            select(Turn)
            .where(Turn.conversation_id == conversation_id)
            .order_by(col(Turn.position), col(Turn.created_at))
        ).all()
        entries = [
            _turn(opened, person, turn, parts.answering.is_running(turn.id)) for turn in turns
        ]
    return ConversationDetail(**_entry(conversation), turns=entries)


def _entry(row: Conversation) -> dict[str, Any]:
    return row.model_dump(include={"id", "title", "created_at", "simulated"})


def _turn(opened: Session, person: Person, turn: Turn, running: bool) -> TurnEntry:
    candidates = opened.exec(
        select(Candidate, PolicyVersion.number)
        .join(PolicyVersion)
        .where(Candidate.turn_id == turn.id)
        .order_by(col(Candidate.side))
    ).all()
    votes = opened.exec(
        select(Comparison).where(Comparison.turn_id == turn.id, Comparison.person_id == person.id)
    ).all()
    vote = _in_force(votes)
    return TurnEntry(
        id=turn.id,
        question=turn.question,
        running=running,
        compared=turn.compared,
        simulated=turn.simulated,
        created_at=turn.created_at,
        passages=[ShownPassage(**passage) for passage in turn.prompt.get("passages", ())],
        answers=[_answer(opened, person, row, number) for row, number in candidates],
        comparison=GivenComparison(vote.id, vote.choice, vote.strength) if vote else None,
    )


def _answer(opened: Session, person: Person, row: Candidate, number: int) -> Answer:
    thumbs = opened.exec(
        select(Thumb).where(Thumb.candidate_id == row.id, Thumb.person_id == person.id)
    ).all()
    thumb = _in_force(thumbs)
    correction = opened.exec(
        select(GoldAnswer.answer)
        .where(GoldAnswer.candidate_id == row.id, GoldAnswer.person_id == person.id)
        .order_by(col(GoldAnswer.created_at).desc())
    ).first()
    return Answer(
        **row.model_dump(
            include={"id", "side", "text", "finish_reason", "simulated", "created_at"}
        ),
        version=number,
        thumb=GivenThumb(thumb.id, thumb.value, thumb.reason, thumb.comment) if thumb else None,
        correction=correction,
    )


def _in_force(rows: Sequence[Vote]) -> Vote | None:
    replaced = {row.replaces_id for row in rows}
    return next((row for row in rows if row.id not in replaced), None)
