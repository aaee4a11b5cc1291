"""How quickly questions are answered lately, and how soon one more would begin to be.

What is normal is learned from questions that found at least half of the engine free and nobody
ahead. So the measure fits any engine and machine, and an overload does not become the norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf_engine.answer_events import EngineStats

WEIGHT = 0.2
"""Of the newest turn in the running means."""
P95 = 2.0
"""A first token that is later than nineteen of twenty takes about so many times the mean, while
half of what can be answered is asked."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a question found."""

    calm: bool
    """Whether at least half of the engine was free."""
    ahead: int | None
    """How many prompts were to be read before its own; None where it had to wait for room."""


class Pace:
    """Running means over turns; seconds."""

    def __init__(self) -> None:
        self._first_s: float | None = None
        self._busy_s: float | None = None
        self._read_s: float | None = None

    def learn(self, first_s: float, busy_s: float, arrival: Arrival) -> None:
        """A turn ended: seconds to its first token, and from there on."""
        if arrival.calm and not arrival.ahead:
            self._first_s = _mean(self._first_s, first_s)
        if arrival.ahead is not None:
            self._read_s = _mean(self._read_s, first_s / (1 + arrival.ahead))
        self._busy_s = _mean(self._busy_s, busy_s)

    def arrival(self, stats: EngineStats, answers: int) -> Arrival:
        """What a question for so many answers finds."""
        waits = stats.taken + min(answers, stats.slots) > stats.slots
        return Arrival(is_calm(stats), None if waits else stats.reading)

    def turn_s(self) -> float | None:
        """How long a turn takes that need not wait; None while nothing is known."""
        if self._first_s is None or self._busy_s is None:
            return None
        return self._first_s + self._busy_s

    def wait_s(self, stats: EngineStats, answers: int) -> float | None:
        """Until there will be room for so many answers more; 0 where there is, None where there
        is none and nothing is known of the speed."""
        missing = stats.taken + min(answers, stats.slots) - stats.slots
        if missing <= 0:
            return 0.0
        turn_s = self.turn_s()
        if turn_s is None:
            return None
        # A turn gives all its slots back at once, when the last of its answers has ended. Turns
        # began at different times, so they end one after the other.
        turns = max(1, stats.active or min(stats.waiting, stats.slots))
        each = min(stats.taken, stats.slots) / turns
        return math.ceil(missing / each) * turn_s / turns

    def is_late(self, stats: EngineStats, answers: int, times: float) -> bool:
        """Whether a first token would probably come later than `times` what is normal; False
        while nothing is known."""
        wait_s = self.wait_s(stats, answers)
        if self._first_s is None or wait_s is None:
            return False
        if wait_s:
            return wait_s > (times - 1) * self._first_s
        if not stats.reading:
            # Alone it is taken, unless the engine is far slower than normally: else half of it
            # would rest wherever long prompts are read slowly.
            return self._one_s(stats, self._first_s) > times * P95 * self._first_s
        # Prompts are made and read one after the other. These are means, of what is normal, too:
        # the late ones of either are as much later.
        return (1 + stats.reading) * self._one_s(stats, self._first_s) > times * self._first_s

    def _one_s(self, stats: EngineStats, first_s: float) -> float:
        """How long a prompt takes now, the longer the more answers are drawn meanwhile. At calm
        times that is not asked, so that a slow hour is forgotten."""
        if is_calm(stats) or self._read_s is None:
            return first_s
        return max(first_s, self._read_s)


def is_calm(stats: EngineStats) -> bool:
    """Whether at least half of the engine is free."""
    return 2 * stats.taken <= stats.slots


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + WEIGHT * (new - old)
