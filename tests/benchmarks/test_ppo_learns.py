"""The table and verdict of ppo_learns, tried without learning for long."""

from __future__ import annotations

import math

import pytest

from tests.benchmarks import ppo_learns
from tests.benchmarks.ppo_learns_tiny import Outcome
from tests.benchmarks.seed_interval import seed_interval


def test_a_policy_that_hardly_learnt_misses_the_goal(capsys: pytest.CaptureFixture[str]) -> None:
    assert ppo_learns.main(["--size", "tiny", "--seeds", "1", "--batches", "1"]) == 1
    printed = capsys.readouterr().out
    assert "THE GOAL IS MISSED" in printed
    assert "rloo" in printed


def test_the_goal_is_nine_tenths_of_the_reachable(capsys: pytest.CaptureFixture[str]) -> None:
    good, poor = Outcome(0, 0.1, 0.73, 0.8), Outcome(1, 0.1, 0.6, 0.8)
    assert good.share == pytest.approx(0.9125)
    assert ppo_learns.print_climb({"ppo": [good], "rloo": [good]})
    assert not ppo_learns.print_climb({"ppo": [good], "rloo": [good, poor]})


def test_seed_interval_is_students() -> None:
    interval = seed_interval([1.0, 2.0, 3.0])
    assert interval.value == 2.0
    assert interval.upper - interval.value == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert seed_interval([5.0]).upper == math.inf
