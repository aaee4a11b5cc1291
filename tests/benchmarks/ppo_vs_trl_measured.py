"""What one side of ppo_vs_trl is told, and what it measures; JSON files between processes."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class TrlJob:
    """One run of TRL's PPOTrainer.

    `prompts` are token ids in the order of the batches. `rows` go through the networks at once
    in the update, `rollout_rows` while answers are sampled and scored.
    """

    base: str
    head: str
    prompts: list[list[int]]
    batch: int
    batches: int
    epochs: int
    answer_tokens: int
    rows: int
    rollout_rows: int
    temperature: float
    learning_rate: float
    rank: int
    alpha: int
    dtype: str
    threads: int
    frozen_value: bool
    folder: str


class Clock:
    """Wall and processor seconds of this process, from `start` to the last `stop`."""

    def __init__(self) -> None:
        self._from: tuple[float, float] | None = None
        self._to = (0.0, 0.0)

    def start(self) -> None:
        """The first batch begins; later calls change nothing."""
        self._from = self._from or _now()

    def stop(self) -> None:
        """A batch is done."""
        self._to = _now()

    def seconds(self) -> tuple[float, float]:
        """Wall and processor seconds."""
        if self._from is None:
            raise RuntimeError("no batch was begun")
        return self._to[0] - self._from[0], self._to[1] - self._from[1]


def _now() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


@dataclass(frozen=True)
class Measured:
    """Wall and processor seconds of all batches, and the process's peak memory; `phases` are
    wall seconds by name, `figures` whatever shows that the run did what it should."""

    episodes: int
    seconds: float
    cpu_s: float
    peak_mb: float
    answer_tokens: float
    phases: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def episodes_per_s(self) -> float:
        """Answers sampled, scored and learned from in a second."""
        return self.episodes / self.seconds

    @property
    def episodes_per_cpu_s(self) -> float:
        """The same by processor time, which other work on the machine disturbs less."""
        return self.episodes / self.cpu_s

    def write(self, path: Path) -> None:
        """Leave it for the process that compares."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Measured:
        """What `write` left."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def peak_mb() -> float:
    """Most memory this process ever held, in MB: VmHWM of Linux."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM; this benchmark needs Linux")
