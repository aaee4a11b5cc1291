"""Whether one more question can be taken now, decided without waiting for anything.

No database, no thread: a refusal must be cheap above all when everything else is slow.
One event loop uses it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import structlog

from service.errors import OverloadedError, TooManyTurnsError
from service.serving import NotReadyError, Serving
from service.settings import AnswerSettings

UNKNOWN_S = 5
"""What is told before any answer ended, when nothing is known of the speed."""
LONGEST_RETRY_S = 120
WEIGHT = 0.2
"""Of the newest turn in the running means."""
TOLD_EVERY_S = 10.0
"""Refusals are logged together this often: each alone would make them expensive."""

log = structlog.get_logger(__name__)


class Admission:
    """Who is being answered, and how long answers take lately."""

    def __init__(self, limits: AnswerSettings, serving: Serving) -> None:
        self._limits, self._serving = limits, serving
        self._running: Counter[str] = Counter()
        self._preparing = 0
        self._busy_s: float | None = None
        self._total_s: float | None = None
        self._refused = 0
        self._told_at = -TOLD_EVERY_S
        self.closed = False
        """Whether the server stops and takes no more questions."""

    @property
    def running(self) -> int:
        """How many questions entered and have not left."""
        return self._running.total()

    def check(self, person_id: str | None = None) -> None:
        """Do nothing where a question can be taken, else raise.

        NotReadyError while nothing is loaded or the server stops, OverloadedError where as many
        wait as may, TooManyTurnsError where this person has as many turns on their way as one
        may; None leaves the last one out.
        """
        if self.closed:
            raise NotReadyError("the server is stopping; ask again in a moment")
        if not self._serving.ready:
            raise NotReadyError(self._serving.waits_for)
        if self._waiting() >= self._limits.max_waiting:
            raise self.overloaded()
        most = self._limits.max_per_person
        if person_id is not None and self._running[person_id] >= most:
            self._count_refusal()
            raise TooManyTurnsError(
                f"{most} of your questions are being answered already; wait for one to end",
                self._seconds(self._total_s),
            )

    def overloaded(self) -> OverloadedError:
        """The refusal of a question because others wait, with when to try again."""
        self._count_refusal()
        return OverloadedError(
            f"{self._waiting()} questions wait already; try again in a moment", self._queue_s()
        )

    def enter(self, person_id: str) -> None:
        """Take a question, from now until `leave`; raises as `check` does."""
        self.check(person_id)
        self._running[person_id] += 1

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Count a question as waiting until it is in the engine."""
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1

    def leave(self, person_id: str) -> None:
        """A question that entered is over."""
        self._running[person_id] -= 1
        if not self._running[person_id]:
            del self._running[person_id]

    def learn(self, busy_s: float, total_s: float) -> None:
        """A turn ended: seconds from its first token, and from its question."""
        self._busy_s = _mean(self._busy_s, busy_s)
        self._total_s = _mean(self._total_s, total_s)

    def _waiting(self) -> int:
        stats = self._serving.stats()
        return self._preparing + (stats.waiting if stats is not None else 0)

    def _queue_s(self) -> int:
        """When those who wait now will have begun, at the speed of lately."""
        stats = self._serving.stats()
        if self._busy_s is None or stats is None:
            return UNKNOWN_S
        return self._seconds(self._waiting() * self._busy_s / max(1, stats.active))

    def _count_refusal(self) -> None:
        self._refused += 1
        if monotonic() - self._told_at >= TOLD_EVERY_S:
            log.warning("questions_refused", count=self._refused, next="clients try again")
            self._refused, self._told_at = 0, monotonic()

    def _seconds(self, estimate: float | None) -> int:
        if estimate is None:
            return UNKNOWN_S
        return min(LONGEST_RETRY_S, max(1, math.ceil(estimate)))


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + WEIGHT * (new - old)
