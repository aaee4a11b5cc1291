"""Whether one more question can be taken now, decided without waiting for anything.

No database, no thread: a refusal must be cheap above all when everything else is slow.
One event loop uses it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic

import structlog

from rlhf_engine.answer_events import EngineStats
from service.errors import OverloadedError, TooManyTurnsError
from service.pace import Arrival, Pace
from service.serving import NotReadyError, Serving
from service.settings import AnswerSettings

UNKNOWN_S = 5
"""What is told before any answer ended, when nothing is known of the speed."""
LONGEST_RETRY_S = 120
TOLD_EVERY_S = 10.0
"""Refusals are logged together this often: each alone would make them expensive."""

log = structlog.get_logger(__name__)


class Admission:
    """Who is being answered, and whether one more would be soon enough."""

    def __init__(self, limits: AnswerSettings, serving: Serving) -> None:
        self._limits, self._serving = limits, serving
        self._running: Counter[str] = Counter()
        self._preparing: list[int] = []
        self._pace = Pace()
        self._refused = 0
        self._told_at = -TOLD_EVERY_S
        self.closed = False
        """Whether the server stops and takes no more questions."""

    @property
    def running(self) -> int:
        """How many questions entered and have not left."""
        return self._running.total()

    def check(self, person_id: str | None = None, answers: int = 1) -> None:
        """Do nothing where a question for so many answers can be taken, else raise.

        NotReadyError while nothing is loaded or the server stops, OverloadedError where as many
        wait as may or the first token would come too late, TooManyTurnsError where this person
        has as many turns on their way as one may; None leaves the last one out.
        """
        if self.closed:
            raise NotReadyError("the server is stopping; ask again in a moment")
        trouble = self._serving.trouble
        if trouble is not None:
            raise NotReadyError(trouble)
        stats = self._stats()
        too_many = stats.waiting >= self._limits.max_waiting
        if too_many or self._pace.is_late(stats, answers, self._limits.slowest_first_token):
            raise self.overloaded(answers)
        most = self._limits.max_per_person
        if person_id is not None and self._running[person_id] >= most:
            self._count_refusal()
            raise TooManyTurnsError(
                f"{most} of your questions are being answered already; wait for one to end",
                self._seconds(self._pace.turn_s()),
            )

    def overloaded(self, answers: int = 1) -> OverloadedError:
        """The refusal of a question because of others, with when to try again."""
        self._count_refusal()
        stats = self._stats()
        busy = (
            f"{stats.waiting} questions wait already"
            if stats.waiting
            else "as many questions are being answered as can be at once"
        )
        return OverloadedError(
            f"{busy}; try again in a moment", self._seconds(self._pace.wait_s(stats, answers))
        )

    def enter(self, person_id: str, answers: int) -> Arrival:
        """Take a question, from now until `leave`; raises as `check` does. Returns what it found,
        for `learn`."""
        self.check(person_id, answers)
        self._running[person_id] += 1
        return self._pace.arrival(self._stats(), answers)

    @contextmanager
    def preparing(self, answers: int) -> Iterator[None]:
        """Count a question as waiting until it is in the engine."""
        self._preparing.append(answers)
        try:
            yield
        finally:
            self._preparing.remove(answers)

    def leave(self, person_id: str) -> None:
        """A question that entered is over."""
        self._running[person_id] -= 1
        if not self._running[person_id]:
            del self._running[person_id]

    def learn(self, first_s: float, busy_s: float, arrival: Arrival) -> None:
        """A turn ended: seconds from its question to its first token, and from there on."""
        self._pace.learn(first_s, busy_s, arrival)

    def _stats(self) -> EngineStats:
        """The engine's, with the questions that are about to be in it."""
        stats: EngineStats = self._serving.stats()
        return replace(
            stats,
            waiting=stats.waiting + len(self._preparing),
            reading=stats.reading + len(self._preparing),
            taken=stats.taken + sum(self._preparing),
        )

    def _count_refusal(self) -> None:
        self._refused += 1
        if monotonic() - self._told_at >= TOLD_EVERY_S:
            log.warning("questions_refused", count=self._refused, next="clients try again")
            self._refused, self._told_at = 0, monotonic()

    def _seconds(self, estimate: float | None) -> int:
        if estimate is None:
            return UNKNOWN_S
        return min(LONGEST_RETRY_S, max(1, math.ceil(estimate)))
