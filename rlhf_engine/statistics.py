"""Intervals: how sure a figure is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the lower and upper end of its confidence interval."""

    value: float
    lower: float
    upper: float


def mean_interval(
    values: Sequence[float], *, confidence: float = 0.95, rounds: int = 1000, seed: int = 17
) -> Interval:
    """Mean with its percentile bootstrap interval; values that are all alike have width 0."""
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2 or np.ptp(array) == 0:
        return Interval(mean, mean, mean)
    found = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=rounds,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def share_interval(successes: int, count: int, *, confidence: float = 0.95) -> Interval:
    """Share of successes with its Wilson interval; a count of 0 gives 0 to 1."""
    if count == 0:
        return Interval(0.0, 0.0, 1.0)
    found = stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return Interval(successes / count, float(found.low), float(found.high))
