"""The reward model's loss and its calibration, against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_engine.calibration import (
    calibration_error,
    cross_fitted,
    error_interval,
    fitted_temperature,
)
from rlhf_engine.reward_math import (
    bootstrap_weights,
    both_bad_loss,
    comparison_loss,
    preference_loss,
)

LOG2 = math.log(2)


def tensors(*values: float) -> torch.Tensor:
    return torch.tensor([list(values)])


def test_the_preference_loss_by_hand() -> None:
    # s(log 3) = 3/4.
    chosen, rejected = tensors(math.log(3), 0, 2.0), tensors(0, 0, 1.0)
    target, margin = torch.tensor([1.0, 0.5, 0.75]), torch.tensor([0.0, 0.0, 1.0])
    expected = tensors(math.log(4 / 3), LOG2, LOG2)
    torch.testing.assert_close(preference_loss(chosen, rejected, target, margin), expected)


def test_a_tie_is_cheapest_where_the_scores_are_equal() -> None:
    apart = torch.linspace(-3, 3, 61).unsqueeze(0)
    nothing = torch.zeros_like(apart)
    loss = preference_loss(apart, nothing, torch.tensor(0.5), torch.tensor(0.0))
    assert int(loss.argmin()) == 30


@pytest.mark.parametrize("target", [0.6, 0.75, 0.9])
def test_a_soft_target_is_cheapest_at_its_own_odds(target: float) -> None:
    difference = torch.tensor([[0.0]], requires_grad=True)
    for _ in range(300):
        loss = preference_loss(
            difference, torch.zeros(1, 1), torch.tensor([target]), torch.zeros(1)
        )
        [gradient] = torch.autograd.grad(loss.sum(), difference)
        difference = (difference - 2 * gradient).detach().requires_grad_()
    assert float(torch.sigmoid(difference.detach())) == pytest.approx(target, abs=1e-3)


def test_both_bad_by_hand_pushes_both_down_alike() -> None:
    torch.testing.assert_close(both_bad_loss(tensors(0.0), tensors(0.0)), tensors(LOG2))
    scores = torch.tensor([[0.5, 0.5]], requires_grad=True)
    both_bad_loss(scores[:, :1], scores[:, 1:]).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 0] == scores.grad[0, 1] > 0


def test_the_whole_loss_is_weighed_and_both_bad_takes_the_place_of_the_vote() -> None:
    # Two heads, two pairs; all scores 0 except the centred pair of head 1: (1 + 1)^2.
    scores = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    loss = comparison_loss(
        scores,
        scores.clone(),
        target=torch.tensor([1.0, 0.5]),
        margin=torch.zeros(2),
        both_bad=torch.tensor([False, True]),
        weights=torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        centre_coefficient=0.1,
        both_bad_weight=0.5,
    )
    expected = [[LOG2, 2 * 0.5 * LOG2], [3 * (LOG2 + 0.1 * 4), 4 * 0.5 * LOG2]]
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_bootstrap_weights_differ_by_head_and_never_vanish() -> None:
    weights = bootstrap_weights(3, 50, seed=17)
    torch.testing.assert_close(weights.mean(dim=1), torch.ones(3))
    assert (weights > 0).all()
    assert not torch.allclose(weights[0], weights[1])
    assert torch.equal(weights, bootstrap_weights(3, 50, seed=17))
    assert torch.equal(bootstrap_weights(1, 5, seed=17), torch.ones(1, 5))


def test_calibration_error_by_hand() -> None:
    # Ten pairs at confidence 3/4, of which eight are right: off by 0.05.
    differences = [math.log(3)] * 8 + [-math.log(3)] * 2
    assert calibration_error(differences) == pytest.approx(0.05)
    assert calibration_error([]) == 0.0
    # A second bin of certain and right ones halves it.
    assert calibration_error(differences + [50.0] * 10) == pytest.approx(0.025)


def test_the_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, 4000)
    signs = np.where(rng.random(4000) < 1 / (1 + np.exp(-honest)), 1, -1)
    overconfident = 3 * honest * signs
    temperature = fitted_temperature(overconfident)
    assert temperature == pytest.approx(3, rel=0.1)
    assert calibration_error(overconfident, temperature) < calibration_error(overconfident) / 3
    scaled = cross_fitted(overconfident, [at % 2 for at in range(4000)])
    assert calibration_error(scaled) < 0.03


@given(st.lists(st.floats(-50, 50), max_size=40))
def test_a_temperature_is_always_found_within_bounds(differences: list[float]) -> None:
    assert 0.05 <= fitted_temperature(differences) <= 20
    assert 0 <= calibration_error(differences) <= 1


def test_without_pairs_nothing_is_scaled() -> None:
    assert fitted_temperature([]) == 1.0
    assert error_interval([]).upper == 1.0


def test_the_interval_holds_the_error_of_a_calibrated_model() -> None:
    interval = error_interval([2.0] * 8 + [-2.0] * 2, rounds=200)
    assert interval.lower <= interval.value <= interval.upper
