"""What an asker hears of a turn, in order: it started, pieces of answers, their ends, its end.

The events of a turn are numbered from 1, so that whoever lost the connection can ask for
those after the last one they saw.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_engine.answer_events import Likely

Side = str
"""Where an answer stands: "" alone, "A" and "B" side by side, and on to "P" where the asker
wanted more."""


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
    """The next token of the answer on one side; `text` may be empty, as where a character needs
    several tokens. Log-probabilities are the policy's own, at temperature 1."""

    side: Side
    text: str
    token_id: int
    logprob: float
    top: tuple[Likely, ...] = ()


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
    """The last event of a turn that went well, or that its asker stopped."""

    turn_id: str


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """The last event of a turn that could not be finished."""

    turn_id: str
    detail: str


Event = TurnStarted | TokenPiece | AnswerEnded | TurnDone | TurnFailed


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """An event with its place in the turn, from 1 on."""

    number: int
    event: Event
