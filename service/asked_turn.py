"""A turn on its way: what was asked for, each of its answers, and what was said of it so far."""

from __future__ import annotations

import asyncio
import random
import secrets
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Literal

import rlhf_engine
from rlhf_engine.answer_events import Event as EngineEvent
from rlhf_engine.answer_events import Failed
from service.serving import Lease
from service.tables import Turn, new_id
from service.temporary_chats import TemporaryTurn
from service.turn_buffer import TurnBuffer, TurnReader
from service.turn_events import Side
from service.vote_pairs import Pairing

SIDES = "ABCDEFGHIJKLMNOP"
"""As many as an engine takes rows in one request."""

FIRST_READER_S = 1.0
"""An asker who has not begun to read after this has left before the answer began."""
UNHEARD_S = 5.0
"""An engine that has not ended a cancelled job after this is not waited for."""

Ending = Literal["left", "stopped", "restart", "waited"]
"""Why a turn was ended early: the asker left, or stopped it; the server stops; it waited too
long."""


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
    """Added to the system text of the prompt."""
    detached: bool = False
    """Whether an asker who leaves has a while to come back before the answers are ended."""
    after: str | None = None
    """The turn of the conversation that this one follows; None for the end of what is shown."""
    instead_of: str | None = None
    """A turn of the conversation whose question is asked anew, or another one in its place: the
    new turn begins a branch beside it."""
    pairing: Pairing | None = None
    """Why it has two answers, where it has."""
    temporary: bool = False
    """Whether to store nothing of it."""


@dataclass(slots=True)
class AnswerRow:
    """One answer being generated; the engine's row of the same index."""

    side: Side
    seed: int
    version_id: str
    canary: bool
    candidate_id: str = field(default_factory=new_id)
    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    first_token_ms: int | None = None
    ended: bool = False


@dataclass(slots=True)
class AskedTurn:
    """A turn in the engine, or one that has just left it. One event loop uses it."""

    person_id: str
    turn: Turn
    rows: list[AnswerRow]
    sampling: rlhf_engine.SamplingSettings
    reconnect_s: float
    """How long a reader who left may take to come back."""
    began: float
    from_engine: asyncio.Queue[EngineEvent] = field(default_factory=asyncio.Queue)
    """Holds at most a few events a token, and the number of tokens is bounded."""
    unstored: TemporaryTurn | None = None
    """What is remembered of a temporary turn in place of rows."""
    gone: bool = False
    """Whether its conversation was deleted: it is there for nobody."""
    prompt_tokens: int | None = None
    """Tokens of its prompt as the engine read it; None before an answer is complete."""
    job: Any = None
    ending: Ending | None = None
    """Why it was ended early, if it was."""
    buffer: TurnBuffer = field(init=False)
    _timers: list[asyncio.TimerHandle] = field(default_factory=list)
    _leaving: asyncio.TimerHandle | None = None

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

    def first_token_ms(self) -> int | None:
        """Milliseconds from the question to the first token of any answer, None before it."""
        firsts = [row.first_token_ms for row in self.rows if row.first_token_ms is not None]
        return min(firsts, default=None)

    def elapsed_ms(self) -> int:
        """Milliseconds since it was asked."""
        return round((monotonic() - self.began) * 1000)

    def watch(self, longest_wait_s: float) -> None:
        """From now on end it where nobody reads, or nothing is answered for too long."""
        left_s = self.began + longest_wait_s - monotonic()
        self._after(max(0.0, left_s), self._end_if_waiting)
        self._readers_changed(0, FIRST_READER_S)

    def end(self, why: Ending) -> None:
        """End within one decode step what is being generated; over it stays as it is."""
        if self.ending is None and not self.buffer.over:
            self.ending = why
            self._after(UNHEARD_S, self._give_up)
            self.cancel()

    def cancel(self) -> None:
        """Tell the engine that nobody wants its answers any more."""
        if self.job is not None:
            self.job.cancel()

    def over(self) -> None:
        """Nothing is left to watch."""
        for timer in [*self._timers, *([self._leaving] if self._leaving else [])]:
            timer.cancel()
        self._timers.clear()

    def _readers_changed(self, readers: int, first_s: float = 0.0) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if readers or self.buffer.over:
            return
        patience_s = max(first_s, self.reconnect_s)
        if patience_s:
            loop = asyncio.get_running_loop()
            self._leaving = loop.call_later(patience_s, self.end, "left")
        else:
            self.end("left")

    def _after(self, seconds: float, what: Any) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(seconds, what))

    def _end_if_waiting(self) -> None:
        if self.first_token_ms() is None:
            self.end("waited")

    def _give_up(self) -> None:
        unheard = rlhf_engine.GenerationError("the engine did not end it in time")
        self.from_engine.put_nowait(Failed(unheard))


def new_rows(leases: list[Lease], *, shuffled: bool, seed: int | None) -> list[AnswerRow]:
    """One row a lease. `shuffled` draws which of the engine's rows stands on which side."""
    count = len(leases)
    sides = list(SIDES[:count]) if count > 1 else [""]
    if shuffled:
        random.SystemRandom().shuffle(sides)
    seeds = _drawn_seeds(count) if seed is None else [seed + row for row in range(count)]
    return [
        AnswerRow(side, drawn, lease.version_id, lease.canary)
        for side, drawn, lease in zip(sides, seeds, leases, strict=True)
    ]


def _drawn_seeds(count: int) -> list[int]:
    seeds: set[int] = set()
    while len(seeds) < count:
        seeds.add(secrets.randbelow(2**31))
    return list(seeds)
