"""What a reward signal looks like to the engine, and how its readings are checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from rlhf_engine.errors import SignalError
from rlhf_engine.records import SignalInput


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
