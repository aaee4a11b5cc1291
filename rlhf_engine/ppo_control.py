"""What steers PPO from batch to batch: the KL penalty's coefficient and the rewards' scale.

Both are plain numbers that go into the checkpoint, so that a resumed run steers alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_CHANGE = 0.2
"""Largest relative error that one update of the coefficient answers to."""

LEAST, LARGEST = 1e-4, 10.0
"""Bounds of the coefficient: beyond them the penalty is nothing, or everything."""


@dataclass
class KlController:
    """Raises the KL coefficient while answers stray further than `target`, lowers it otherwise.

    Proportional control in log space (Ziegler et al. 2019, arXiv 1909.08593, section 2.2):
    coefficient *= 1 + clip(KL / target - 1, -0.2, 0.2) answers / horizon. `target` is the mean
    KL an answer in nats; None keeps the coefficient fixed. It never falls below `least`: every
    run begins with a KL of 0, and a controller free to lower the penalty then has little of it
    left when it is needed (tests/benchmarks/overoptimisation.py).
    """

    coefficient: float
    target: float | None
    horizon: float
    least: float = LEAST

    def update(self, kl: float, answers: int) -> None:
        """Hear the KL of a rollout batch of that many answers."""
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -MAX_CHANGE), MAX_CHANGE)
        changed = self.coefficient * (1 + error * min(1.0, answers / self.horizon))
        self.coefficient = min(max(changed, self.least), LARGEST)


@dataclass
class RewardScale:
    """The running deviation of rewards, by which they are divided.

    It starts at 1 with the weight of one batch, since the reward model's scores have that
    deviation over the answers it was trained on. The mean is left alone: critic and
    whitening take it off. `count`, `mean` and `squares` (the sum of squared deviations) are
    merged batch by batch (Chan et al. 1979).
    """

    count: float
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def starting(cls, batch_size: int) -> RewardScale:
        """Deviation 1, as if one batch had been seen."""
        return cls(count=float(batch_size), squares=float(batch_size))

    @property
    def deviation(self) -> float:
        """What to divide by; rewards that hardly vary are not blown up."""
        return max(math.sqrt(self.squares / self.count), 0.1)

    def update(self, count: float, mean: float, variance: float) -> None:
        """Add a batch by its count, mean and (population) variance."""
        total = self.count + count
        apart = mean - self.mean
        self.squares += variance * count + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total
