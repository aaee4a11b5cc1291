"""What one side of ppo_vs_trl is told, and what it measures; JSON files between processes."""

from __future__ import annotations

import json
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


@dataclass(frozen=True)
class Measured:
    """Seconds of each batch and the process's peak memory; `phases` are seconds by name, over
    all batches, and `figures` whatever shows that the run did what it should."""

    episodes: int
    batch_s: list[float]
    peak_mb: float
    answer_tokens: float
    phases: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """All batches."""
        return sum(self.batch_s)

    @property
    def episodes_per_s(self) -> float:
        """Answers sampled, scored and learned from in a second."""
        return self.episodes / self.seconds

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
