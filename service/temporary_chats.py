"""Temporary chats: kept in this process's memory while they are used, and nowhere else.

Answers are append-only in the database, so one that was stored could not be erased; what is
never stored needs no erasing, is in no backup and no snapshot, and cannot be voted on. A
chat is forgotten when its owner ends it, when nothing was asked in it for half an hour, and
when the server stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic

import rlhf_engine
from service.errors import NotFoundError
from service.tables import now
from service.turn_events import (
    UNFINISHED,
    AnswerEnded,
    Event,
    ShownPassage,
    ShownVerified,
    TurnDone,
    TurnFailed,
    TurnStarted,
)

KEPT_S = 30 * 60.0
"""Seconds after its last question until a chat is forgotten."""
MOST_CHATS = 1_000
"""Beyond this many, the one that was used longest ago is forgotten."""
MOST_TURNS = 100


@dataclass(slots=True)
class TemporaryTurn:
    """A question and what was answered so far."""

    id: str
    parent_id: str | None
    question: str
    passages: tuple[ShownPassage, ...] = ()
    verified: ShownVerified | None = None
    answers: list[AnswerEnded] = field(default_factory=list)
    created_at: datetime = field(default_factory=now)

    def shown_answer(self) -> str | None:
        """What the conversation goes on from."""
        if self.verified is not None:
            return self.verified.text
        return self.answers[0].text if self.answers else None


@dataclass(slots=True)
class TemporaryChat:
    """A conversation that nobody stores. `used` is a monotonic moment."""

    id: str
    person_id: str
    turns: dict[str, TemporaryTurn] = field(default_factory=dict)
    shown_turn_id: str | None = None
    used: float = field(default_factory=monotonic)
    created_at: datetime = field(default_factory=now)

    def parent_of(self, after: str | None, instead_of: str | None) -> str | None:
        """The turn that a new one follows, as for conversations.place_turn."""
        for number in (after, instead_of):
            if number is not None and number not in self.turns:
                raise NotFoundError(f"this conversation has no turn {number!r}")
        if instead_of is not None:
            return self.turns[instead_of].parent_id
        if after is not None:
            return after
        last = self.shown_turn_id or next(reversed(self.turns), None)
        newest_child = {turn.parent_id: turn.id for turn in self.turns.values()}
        while last in newest_child:
            last = newest_child[last]
        return last

    def history(self, last: str | None, limit: int) -> tuple[rlhf_engine.Exchange, ...]:
        """The exchanges on the way to and with turn `last`, as for conversations.history."""
        exchanges: list[rlhf_engine.Exchange] = []
        while last in self.turns and limit > 0:
            turn = self.turns[last]
            answer = turn.shown_answer()
            if answer:
                exchanges.append(rlhf_engine.Exchange(turn.question, answer))
            last, limit = turn.parent_id, limit - 1
        return tuple(reversed(exchanges))


class TemporaryChats:
    """The temporary chats of this process. Every method forgets those that are too old."""

    def __init__(self, kept_s: float = KEPT_S) -> None:
        self._kept_s = kept_s
        self._chats: dict[str, TemporaryChat] = {}

    def begin(self, chat_id: str, person_id: str) -> TemporaryChat:
        """A new chat of this person."""
        self.forget_old()
        if len(self._chats) >= MOST_CHATS:
            oldest = min(self._chats.values(), key=lambda chat: chat.used)
            self._chats.pop(oldest.id, None)
        chat = self._chats[chat_id] = TemporaryChat(chat_id, person_id)
        return chat

    def find(self, person_id: str, chat_id: str) -> TemporaryChat | None:
        """This person's chat of this id; None where there is none (any more)."""
        self.forget_old()
        chat = self._chats.get(chat_id)
        return chat if chat is not None and chat.person_id == person_id else None

    def add(self, chat_id: str, turn: TemporaryTurn) -> None:
        """Keep a turn while the chat is kept; the oldest goes where there are very many."""
        chat = self._chats.get(chat_id)
        if chat is None:
            return
        chat.turns[turn.id] = turn
        chat.shown_turn_id, chat.used = turn.id, monotonic()
        if len(chat.turns) > MOST_TURNS:
            del chat.turns[next(iter(chat.turns))]

    def told(self, person_id: str, turn_id: str) -> Sequence[Event]:
        """The events of a turn that is over, each answer in one piece; empty for no such turn."""
        self.forget_old()
        for chat in list(self._chats.values()):
            turn = chat.turns.get(turn_id)
            if turn is not None and chat.person_id == person_id:
                last = TurnDone(turn_id) if turn.answers else TurnFailed(turn_id, UNFINISHED)
                return [_started(chat, turn), *turn.answers, last]
        return []

    def forget(self, person_id: str, chat_id: str) -> bool:
        """Forget a chat at once; False where there is none of this person."""
        if self.find(person_id, chat_id) is None:
            return False
        self._chats.pop(chat_id, None)
        return True

    def forget_old(self) -> None:
        """Forget every chat that has not been used for too long."""
        oldest = monotonic() - self._kept_s
        for chat in [chat for chat in list(self._chats.values()) if chat.used < oldest]:
            self._chats.pop(chat.id, None)

    def __len__(self) -> int:
        return len(self._chats)


def _started(chat: TemporaryChat, turn: TemporaryTurn) -> TurnStarted:
    return TurnStarted(
        turn_id=turn.id,
        conversation_id=chat.id,
        sides=tuple(answer.side for answer in turn.answers),
        version=turn.answers[0].version if turn.answers else None,
        passages=turn.passages,
        no_source=not turn.passages,
        verified=turn.verified,
        parent_id=turn.parent_id,
        temporary=True,
    )
