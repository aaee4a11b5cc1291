"""Conversations: whose they are, and what of them a new question is answered with."""

from __future__ import annotations

from sqlmodel import Session, col, select

import rlhf_engine
from service.errors import NotFoundError
from service.tables import Candidate, Comparison, Conversation, Person, Turn


def own_conversation(opened: Session, person: Person, conversation_id: str) -> Conversation:
    """The person's conversation; NotFoundError where there is none, or it is somebody else's."""
    conversation = opened.get(Conversation, conversation_id)
    if conversation is None or conversation.person_id != person.id:
        raise NotFoundError(f"you have no conversation {conversation_id!r}")
    return conversation


def history(opened: Session, conversation_id: str, limit: int) -> tuple[rlhf_engine.Exchange, ...]:
    if limit == 0:
        return ()
    turns = opened.exec(
        select(Turn)
        .where(Turn.conversation_id == conversation_id)
        .order_by(col(Turn.position).desc())
        .limit(limit)
    ).all()
    shown = ((turn, _shown_answer(opened, turn)) for turn in reversed(turns))
    return tuple(rlhf_engine.Exchange(turn.question, text) for turn, text in shown if text)


def _shown_answer(opened: Session, turn: Turn) -> str | None:
    """The answer the conversation goes on from: the one that was chosen, else the first."""
    answers = opened.exec(
        select(Candidate).where(Candidate.turn_id == turn.id).order_by(col(Candidate.side))
    ).all()
    vote = opened.exec(
        select(Comparison)
        .where(Comparison.turn_id == turn.id)
        .order_by(col(Comparison.created_at).desc())
    ).first()
    chosen = vote.choice if vote else "A"
    ordered = sorted(answers, key=lambda answer: answer.side not in ("", chosen))
    return ordered[0].text if ordered else None
