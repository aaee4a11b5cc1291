"""A turn on its way: what was asked for, each of its answers, and what was said of it so far."""

from __future__ import annotations

import asyncio
import random
import secrets
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import rlhf_engine
from rlhf_engine.answer_events import Event as EngineEvent
from service.tables import Turn, new_id
from service.turn_buffer import TurnBuffer, TurnReader
from service.turn_events import Side

SIDES = "ABCDEFGHIJKLMNOP"
"""As many as an engine takes rows in one request."""


@dataclass(frozen=True, slots=True)
class AskOptions:
    """What an asker may want otherwise than the deployment's settings have it."""

    answers: int | None = None
    """How many answers; None for two where they are compared, else one."""
    sampling: rlhf_engine.SamplingSettings | None = None
    """How to sample; None for the deployment's settings."""
    seed: int | None = None
    """Answer i is drawn with seed + i; None draws each seed."""
    version: str | None = None
    """A loaded policy version's id, or "live", "candidate" or "previous"; None for the service's
    choice."""
    history: tuple[rlhf_engine.Exchange, ...] | None = None
    """Earlier exchanges, instead of those of the conversation."""
    instructions: str = ""
    """Stands after the system text in the prompt."""
    detached: bool = False
    """Whether an asker who leaves has a while to come back before the answers are ended."""


@dataclass(slots=True)
class AnswerRow:
    """One answer being generated; the engine's row of the same index."""

    side: Side
    seed: int
    version_id: str
    candidate_id: str = field(default_factory=new_id)
    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    first_token_ms: int | None = None
    ended: bool = False


@dataclass(slots=True)
class AskedTurn:
    """A turn in the engine, or one that has just left it."""

    person_id: str
    turn: Turn
    rows: list[AnswerRow]
    sampling: rlhf_engine.SamplingSettings
    simulated: bool
    detached: bool
    began: float
    from_engine: asyncio.Queue[EngineEvent] = field(default_factory=asyncio.Queue)
    """Holds at most a few events a token, and the number of tokens is bounded."""
    job: Any = None
    buffer: TurnBuffer = field(init=False)
    left: bool = False
    """Whether the last reader has gone for good."""

    def __post_init__(self) -> None:
        self.buffer = TurnBuffer(self._readers_changed)

    @property
    def turn_id(self) -> str:
        """The turn's id."""
        return self.turn.id

    @property
    def conversation_id(self) -> str:
        """The id of the conversation it belongs to."""
        return self.turn.conversation_id

    @property
    def version_ids(self) -> list[str]:
        """The policy version of each answer, in the engine's order."""
        return [row.version_id for row in self.rows]

    def events(self, after: int = 0) -> TurnReader:
        """The events numbered above `after`, to the turn's end; close them to leave."""
        return self.buffer.reader(after)

    def elapsed_ms(self) -> int:
        """Milliseconds since it was asked."""
        return round((monotonic() - self.began) * 1000)

    def cancel(self) -> None:
        """End what is being generated within one decode step."""
        if self.job is not None:
            self.job.cancel()

    def _readers_changed(self, readers: int) -> None:
        if readers == 0 and not self.buffer.over:
            self.left = True
            self.cancel()


def new_rows(version_ids: list[str], *, shuffled: bool, seed: int | None) -> list[AnswerRow]:
    """One row a version. `shuffled` draws which of the engine's rows stands on which side."""
    count = len(version_ids)
    sides = list(SIDES[:count]) if count > 1 else [""]
    if shuffled:
        random.SystemRandom().shuffle(sides)
    seeds = _drawn_seeds(count) if seed is None else [seed + row for row in range(count)]
    return [
        AnswerRow(side, drawn, version_id)
        for side, drawn, version_id in zip(sides, seeds, version_ids, strict=True)
    ]


def _drawn_seeds(count: int) -> list[int]:
    seeds: set[int] = set()
    while len(seeds) < count:
        seeds.add(secrets.randbelow(2**31))
    return list(seeds)
