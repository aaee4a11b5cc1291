"""What a reward signal looks like to the engine, what it is told of an answer, and how its
readings are checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlhf_engine.errors import SignalError
from rlhf_engine.records import Prompt, SignalInput
from rlhf_engine.snapshot import Snapshot, normalised

READ_AT_ONCE = 32
"""Answers of one call; plugins have a time limit for each call."""


class RewardSignal(Protocol):
    """Reads answers; each reading lies in [-1, 1], higher is better, None abstains."""

    @property
    def name(self) -> str:
        """Used in metrics as reward/<name>."""

    @property
    def weight(self) -> float:
        """The most that this signal may add to or take from a reward."""

    def read_batch(self, batch: Sequence[SignalInput]) -> Sequence[float | None]:
        """One reading an answer, in order."""


@dataclass(frozen=True)
class Known:
    """What people said that concerns drawn answers: the right answer to each question, and the
    thumbs of each answer to it. Questions are compared as snapshots do, answers but for white
    space."""

    golds: Mapping[str, str] = field(default_factory=dict)
    thumbs: Mapping[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot) -> Known:
        """What the training side of a snapshot knows."""
        thumbs: dict[tuple[str, str], tuple[int, ...]] = {}
        for item in snapshot.thumbs:
            if item.prompt.split == "train":
                key = _key(item.prompt, item.answer)
                thumbs[key] = (*thumbs.get(key, ()), 1 if item.up else -1)
        given = snapshot.training_demonstrations()
        return cls({normalised(item.prompt.question): item.answer for item in given}, thumbs)

    def about(self, prompt: Prompt, answer: str) -> SignalInput:
        """What a signal is told of an answer."""
        gold = self.golds.get(normalised(prompt.question))
        return SignalInput(prompt, answer, gold, self.thumbs.get(_key(prompt, answer), ()))


@dataclass(frozen=True, slots=True)
class Summary:
    """Readings of a policy's answers: their mean where the signal read any, how many it read,
    and from how many it abstained."""

    mean: float | None
    read: int
    abstained: int


def summary(signal: RewardSignal, inputs: Sequence[SignalInput]) -> Summary:
    """Let the signal read all inputs; SignalError as read_signal."""
    readings = read_all(signal, inputs)
    read = [reading for reading in readings if reading is not None]
    mean = math.fsum(read) / len(read) if read else None
    return Summary(mean, len(read), len(readings) - len(read))


def _key(prompt: Prompt, answer: str) -> tuple[str, str]:
    return normalised(prompt.question), " ".join(answer.split())


def read_all(signal: RewardSignal, inputs: Sequence[SignalInput]) -> list[float | None]:
    """The signal's readings of any number of answers, some a call; SignalError as read_signal."""
    readings: list[float | None] = []
    for start in range(0, len(inputs), READ_AT_ONCE):
        readings += read_signal(signal, inputs[start : start + READ_AT_ONCE])
    return readings


def read_signal(signal: RewardSignal, batch: Sequence[SignalInput]) -> list[float | None]:
    """The signal's readings; SignalError names the signal where it breaks the contract."""
    try:
        readings = list(signal.read_batch(batch))
    except Exception as error:
        raise SignalError(
            f"reward signal {signal.name} failed: {type(error).__name__}: {error}; "
            "mend it or take it out of the settings, then resume the run"
        ) from error
    if len(readings) != len(batch):
        raise SignalError(
            f"reward signal {signal.name} gave {len(readings)} readings for {len(batch)} answers"
        )
    for reading in readings:
        if reading is not None and not (math.isfinite(reading) and -1 <= reading <= 1):
            raise SignalError(
                f"reward signal {signal.name} gave {reading}; readings lie in [-1, 1]"
            )
    return readings
