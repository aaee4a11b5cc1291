"""Intervals against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf_engine.statistics import mean_interval, share_interval, win_interval

Z = 1.959964


@pytest.mark.parametrize("count", [1, 2, 4, 40])
def test_all_successes_have_the_wilson_interval(count: int) -> None:
    """With a share of 1 its lower end is n / (n + z^2)."""
    found = share_interval(count, count)
    assert (found.value, found.upper) == (1.0, 1.0)
    assert found.lower == pytest.approx(count / (count + Z**2), abs=1e-6)


def test_without_ties_wins_are_a_share() -> None:
    assert win_interval(3, 0, 1) == share_interval(3, 4)


def test_ties_pull_towards_one_half() -> None:
    """Wilson's interval of 14 of 16 begins at 0.640."""
    found = win_interval(14, 24, 2)
    assert found.value == pytest.approx((14 + 12) / 40)
    assert found.lower == pytest.approx(0.5 + 0.4 * (share_interval(14, 16).lower - 0.5))
    assert found.lower == pytest.approx(0.556, abs=1e-3)
    even = win_interval(0, 9, 0)
    assert (even.value, even.lower, even.upper) == (0.5, 0.5, 0.5)


def test_a_few_wins_beside_many_ties_are_not_enough() -> None:
    assert win_interval(3, 30, 0).lower < 0.5


def test_no_questions_say_nothing() -> None:
    found = share_interval(0, 0)
    assert (found.lower, found.upper) == (0.0, 1.0)


def test_two_values_have_students_interval() -> None:
    """t of one degree of freedom is 12.706; the standard error of 0.2 and 6.0 is 2.9."""
    found = mean_interval([0.2, 6.0])
    assert found.value == pytest.approx(3.1)
    assert found.upper - 3.1 == pytest.approx(3.1 - found.lower) == pytest.approx(2.9 * 12.7062)


def test_many_values_have_the_interval_of_their_standard_error() -> None:
    values = np.random.default_rng(3).normal(1.0, 2.0, 4000)
    found = mean_interval(list(values))
    half = Z * values.std(ddof=1) / math.sqrt(len(values))
    assert found.upper - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.lower == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize("count", [3, 6, 20])
def test_the_mean_is_covered_as_often_as_is_said(count: int) -> None:
    drawn = np.random.default_rng(5).normal(0.0, 1.0, (300, count))
    covered = [found.lower <= 0 <= found.upper for found in map(mean_interval, drawn.tolist())]
    assert np.mean(covered) >= 0.93


def test_values_all_alike_have_no_width() -> None:
    found = mean_interval([2.0] * 6)
    assert (found.value, found.lower, found.upper) == (2.0, 2.0, 2.0)
