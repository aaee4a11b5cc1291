"""The interval of a mean over a few seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy import stats

from rlhf_engine.statistics import Interval


def seed_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval; of one value, an interval without bounds.

    Three seeds are too few for a bootstrap, which would show a third of the spread.
    """
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return Interval(mean, mean - float(half), mean + float(half))


def between(interval: Interval) -> str:
    """The ends of an interval as a table shows them, or that there are none."""
    if math.isinf(interval.lower):
        return "-"
    return f"{interval.lower:.3f} to {interval.upper:.3f}"
