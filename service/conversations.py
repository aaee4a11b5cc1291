"""Conversations: whose they are, listed, renamed, pinned, deleted, and their branches.

A conversation is a tree of turns. The branch shown is the way from its beginning to the
turn that was chosen last, and on to the newest of what follows; a new question goes on from
its end, and is answered with the exchanges on the way to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy
import structlog
from sqlalchemy import Boolean, Select, String, literal, tuple_, update
from sqlmodel import Session, col, select

import rlhf_engine
from service import vote_pairs
from service.cursors import cursor, place
from service.errors import NotFoundError
from service.given_votes import chosen_answer
from service.tables import (
    Candidate,
    Conversation,
    GoldAnswer,
    Person,
    Turn,
    UtcDateTime,
    now,
)
from service.verified import shown_in
from service.wording import readable

LONGEST_TITLE = 80

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """Some conversations, and where the next ones begin; None after the last."""

    rows: Sequence[Conversation]
    next: str | None


def own_conversation(opened: Session, person: Person, conversation_id: str) -> Conversation:
    """The person's conversation; NotFoundError where there is none, it was deleted, or it is
    somebody else's."""
    conversation = opened.get(Conversation, conversation_id)
    if conversation is None or conversation.deleted_at or conversation.person_id != person.id:
        raise NotFoundError(f"you have no conversation {conversation_id!r}")
    return conversation


def own_turn(opened: Session, person_id: str, turn_id: str) -> Turn:
    """The person's turn; NotFoundError as for `own_conversation`."""
    query = (
        select(Turn)
        .join(Conversation, col(Conversation.id) == col(Turn.conversation_id))
        .where(
            Turn.id == turn_id,
            Conversation.person_id == person_id,
            col(Conversation.deleted_at).is_(None),
        )
    )
    turn = opened.exec(query).first()
    if turn is None:
        raise NotFoundError(f"you have no turn {turn_id!r}")
    return turn


def deleted_turns() -> Select[str]:
    """The ids of the turns that their owners deleted, as a part of another statement."""
    return (
        sqlalchemy.select(col(Turn.id))
        .join(Conversation, col(Conversation.id) == col(Turn.conversation_id))
        .where(col(Conversation.deleted_at).is_not(None))
    )


def is_deleted(opened: Session, turn_id: str) -> bool:
    """Whether a turn's owner deleted its conversation: then nobody is shown its text."""
    return opened.execute(deleted_turns().where(col(Turn.id) == turn_id)).first() is not None


def list_own(opened: Session, person: Person, after: str | None, limit: int) -> ConversationPage:
    """The person's conversations, pinned ones first, then those with the newest questions."""
    order = tuple_(col(Conversation.pinned), col(Conversation.updated_at), col(Conversation.id))
    query = select(Conversation).where(
        Conversation.person_id == person.id, col(Conversation.deleted_at).is_(None)
    )
    last = place(after or "", tuple[bool, datetime, str])
    if last is not None:
        pinned, updated_at, number = last
        shown = (
            literal(pinned, Boolean),
            literal(updated_at, UtcDateTime),
            literal(number, String),
        )
        query = query.where(order < tuple_(*shown))
    newest_first = (
        col(Conversation.pinned).desc(),
        col(Conversation.updated_at).desc(),
        col(Conversation.id).desc(),
    )
    rows = opened.exec(query.order_by(*newest_first).limit(limit + 1)).all()
    if len(rows) <= limit:
        return ConversationPage(rows, None)
    end = rows[limit - 1]
    return ConversationPage(rows[:limit], cursor((end.pinned, end.updated_at, end.id)))


def change(
    opened: Session,
    conversation: Conversation,
    *,
    title: str | None = None,
    pinned: bool | None = None,
    shown_turn_id: str | None = None,
) -> None:
    """Rename, pin, or show another branch: what is None stays. NotFoundError for a turn of
    another conversation, InvalidInputError for a title that is none."""
    if title is not None:
        conversation.title = readable("title", title, LONGEST_TITLE)
    if pinned is not None:
        conversation.pinned = pinned
    if shown_turn_id is not None:
        _turn_of(opened, conversation.id, shown_turn_id)
        conversation.shown_turn_id = shown_turn_id
    opened.add(conversation)
    opened.flush()


def delete(opened: Session, conversation: Conversation) -> None:
    """Take a conversation from its owner and from training for good.

    Its answers stay stored, since votes on them say which policy is better; corrections that
    nobody has decided on go with it, accepted ones are the company's knowledge by now.
    """
    conversation.deleted_at = now()
    opened.add(conversation)
    opened.flush()
    answers = (
        select(Candidate.id)
        .join(Turn, col(Turn.id) == col(Candidate.turn_id))
        .where(Turn.conversation_id == conversation.id)
    )
    opened.execute(
        update(GoldAnswer)
        .where(col(GoldAnswer.state) == "proposed", col(GoldAnswer.candidate_id).in_(answers))
        .values(state="removed")
    )
    turns = opened.exec(select(Turn.id).where(Turn.conversation_id == conversation.id)).all()
    vote_pairs.forget(opened, turns)
    log.info("conversation_deleted", conversation=conversation.id)


def place_turn(
    opened: Session, conversation: Conversation, after: str | None, instead_of: str | None
) -> str | None:
    """The turn that a new one follows: `after`, or what `instead_of` follows, or the end of the
    branch shown. NotFoundError for a turn of another conversation."""
    if instead_of is not None:
        return _turn_of(opened, conversation.id, instead_of).parent_id
    if after is not None:
        return _turn_of(opened, conversation.id, after).id
    return _end_of_branch(opened, conversation)


def history(opened: Session, last: str | None, limit: int) -> tuple[rlhf_engine.Exchange, ...]:
    """The exchanges on the way to and with turn `last`, the `limit` newest, oldest first."""
    exchanges: list[rlhf_engine.Exchange] = []
    while last is not None and limit > 0:
        turn = opened.get_one(Turn, last)
        answer = _shown_answer(opened, turn)
        if answer:
            exchanges.append(rlhf_engine.Exchange(turn.question, answer))
        last, limit = turn.parent_id, limit - 1
    return tuple(reversed(exchanges))


def _shown_answer(opened: Session, turn: Turn) -> str | None:
    """The answer the conversation goes on from: the verified one, the one that its owner chose,
    else the first."""
    verified = shown_in(opened, [turn.id]).get(turn.id)
    if verified is not None:
        return verified.answer
    answers = opened.exec(
        select(Candidate).where(Candidate.turn_id == turn.id).order_by(col(Candidate.side))
    ).all()
    owner = opened.get_one(Conversation, turn.conversation_id).person_id
    chosen = chosen_answer(opened, owner, turn.id)
    ordered = sorted(answers, key=lambda answer: answer.id != chosen)
    return ordered[0].text if ordered else None


def _end_of_branch(opened: Session, conversation: Conversation) -> str | None:
    query = (
        select(Turn.id, Turn.parent_id)
        .where(Turn.conversation_id == conversation.id)
        .order_by(col(Turn.position), col(Turn.created_at), col(Turn.id))
    )
    rows = opened.exec(query).all()
    newest_child = {parent: number for number, parent in rows}
    last = conversation.shown_turn_id or (rows[-1][0] if rows else None)
    while last in newest_child:
        last = newest_child[last]
    return last


def _turn_of(opened: Session, conversation_id: str, turn_id: str) -> Turn:
    turn = opened.get(Turn, turn_id)
    if turn is None or turn.conversation_id != conversation_id:
        raise NotFoundError(f"this conversation has no turn {turn_id!r}")
    return turn
