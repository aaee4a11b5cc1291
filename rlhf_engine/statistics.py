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
    """Mean with its interval: at each end the wider of Student's t and the percentile bootstrap.
    The bootstrap is too narrow for few values, and t knows nothing of skew.

    Values that are all alike have width 0, so whoever decides by it asks for enough of them.
    """
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2 or np.ptp(array) == 0:
        return Interval(mean, mean, mean)
    half = float(stats.sem(array) * stats.t.isf((1 - confidence) / 2, len(array) - 1))
    drawn = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=rounds,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, min(mean - half, float(drawn.low)), max(mean + half, float(drawn.high)))


def share_interval(successes: int, count: int, *, confidence: float = 0.95) -> Interval:
    """Share of successes with its Wilson interval; a count of 0 gives 0 to 1."""
    if count == 0:
        return Interval(0.0, 0.0, 1.0)
    tested = stats.binomtest(successes, count)
    found = tested.proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(successes / count, float(found.low), float(found.high))


def win_interval(wins: int, ties: int, losses: int, *, confidence: float = 0.95) -> Interval:
    """Rate of wins, a tie being half of one, with the Wilson interval of those that were decided.

    Ties say that the rate is near one half, and nothing of which side is better: the interval
    lies above one half where that of wins among wins and losses does.
    """
    decided = wins + losses
    share = share_interval(wins, decided, confidence=confidence)
    weight = decided / max(1, decided + ties)
    ends = (0.5 + weight * (end - 0.5) for end in (share.value, share.lower, share.upper))
    return Interval(*ends)
