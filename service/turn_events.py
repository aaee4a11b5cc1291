"""What an asker hears of a turn, in order: it started, pieces of answers, their ends, its end.

The events of a turn are numbered from 1, so that whoever lost the connection can ask for
those after the last one they saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rlhf_engine.answer_events import Likely

UNFINISHED = "The answer was not finished. Please ask again."

Side = str
"""Where an answer stands: "" alone, "A" and "B" side by side, and on to "P" where the asker
wanted more."""


@dataclass(frozen=True, slots=True)
class ShownPassage:
    """A passage that stands in the prompt, as the asker may read it: `number` is what answers
    cite it by, from 1. Without a `document_id` it is there no longer, or no longer for them."""

    id: str
    title: str
    text: str
    number: int = 0
    heading: str = ""
    document_id: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class ShownVerified:
    """An answer that a reviewer has accepted, shown above what the policy answers."""

    id: str
    text: str
    by: str
    created_at: datetime
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The first event: what was asked where, and what the answers will rest on. `version` is None
    where two answers are to be compared blind; `no_source` says that nothing was found to
    answer from; nothing of a `temporary` turn is stored."""

    turn_id: str
    conversation_id: str
    sides: tuple[Side, ...]
    version: int | None
    passages: tuple[ShownPassage, ...]
    no_source: bool = False
    verified: ShownVerified | None = None
    parent_id: str | None = None
    temporary: bool = False


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
    """The answer on one side has ended and is stored; `text` is all of it. `version` is None where
    it is compared blind."""

    side: Side
    candidate_id: str
    text: str
    finish_reason: str
    version: int | None

    @property
    def whole(self) -> bool:
        """Whether it came to an end of its own, and was not broken off."""
        return self.finish_reason != "cancelled"


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
