"""What an asker hears of a turn, in order: it started, pieces of answers, their ends, its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["", "A", "B"]


@dataclass(frozen=True, slots=True)
class ShownPassage:
    """A passage that stands in the prompt, as the asker may read it."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The first event: what was asked where, and what the answers will rest on."""

    turn_id: str
    conversation_id: str
    sides: tuple[Side, ...]
    version: int
    passages: tuple[ShownPassage, ...]


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """The next piece of the answer on one side."""

    side: Side
    text: str


@dataclass(frozen=True, slots=True)
class AnswerEnded:
    """The answer on one side has ended and is stored; `text` is all of it."""

    side: Side
    candidate_id: str
    text: str
    finish_reason: str
    version: int


@dataclass(frozen=True, slots=True)
class TurnDone:
    """The last event of a turn that went well."""

    turn_id: str


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """The last event of a turn that could not be finished."""

    turn_id: str
    detail: str


Event = TurnStarted | TokenPiece | AnswerEnded | TurnDone | TurnFailed
