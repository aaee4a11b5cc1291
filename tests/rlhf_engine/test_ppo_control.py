"""The KL controller and the scale of rewards."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_engine.ppo_control import KlController, RewardScale


def test_the_coefficient_follows_the_kl() -> None:
    # error clipped to 0.2, 32 of 64 answers: 0.1 * (1 + 0.2 * 0.5) = 0.11
    controller = KlController(0.1, target=6.0, horizon=64)
    controller.update(kl=60.0, answers=32)
    assert controller.coefficient == pytest.approx(0.11)
    controller.update(kl=0.0, answers=32)
    assert controller.coefficient == pytest.approx(0.11 * 0.9)
    controller.update(kl=6.0, answers=32)
    assert controller.coefficient == pytest.approx(0.11 * 0.9)


def test_the_coefficient_never_falls_below_its_least() -> None:
    controller = KlController(0.1, target=6.0, horizon=64, least=0.1)
    controller.update(kl=0.0, answers=64)
    assert controller.coefficient == 0.1
    controller.update(kl=60.0, answers=64)
    controller.update(kl=0.0, answers=64)
    assert controller.coefficient == pytest.approx(0.1)


def test_without_a_target_the_coefficient_is_fixed() -> None:
    controller = KlController(0.1, target=None, horizon=64)
    controller.update(kl=60.0, answers=32)
    assert controller.coefficient == 0.1


@given(st.lists(st.floats(-50, 1e6), max_size=400))
def test_the_coefficient_stays_within_its_bounds(kls: list[float]) -> None:
    controller = KlController(0.05, target=6.0, horizon=1)
    for kl in kls:
        controller.update(kl, answers=1000)
    assert 1e-4 <= controller.coefficient <= 10


def test_the_scale_starts_at_1_and_merges_batches() -> None:
    scale = RewardScale.starting(4)
    assert scale.deviation == 1
    first = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    second = torch.tensor([10.0, 12.0, 14.0], dtype=torch.float64)
    for batch in (first, second):
        scale.update(len(batch), float(batch.mean()), float(batch.var(unbiased=False)))
    # The start counts as four rewards of mean 0 and deviation 1: as `first` does.
    everything = torch.cat([first, first, second])
    assert scale.mean == pytest.approx(float(everything.mean()))
    assert scale.deviation == pytest.approx(float(everything.std(unbiased=False)))


def test_rewards_that_never_vary_are_not_blown_up() -> None:
    scale = RewardScale.starting(2)
    for _ in range(100_000):
        scale.update(16, 3.0, 0.0)
    assert scale.deviation >= 0.1
