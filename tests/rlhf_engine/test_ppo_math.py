"""The arithmetic of PPO against numbers worked by hand, and properties that always hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_engine import ppo_math


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


def test_masked_mean_leaves_padding_out() -> None:
    assert ppo_math.masked_mean(row(1, 3, 100), row(1, 1, 0)) == 2
    assert ppo_math.masked_mean(row(5, 5), row(0, 0)) == 0


def test_whitening_takes_the_mean_off_and_divides_by_the_deviation() -> None:
    torch.testing.assert_close(ppo_math.whiten(row(1, 3, 6), 2.0, 4.0), row(-0.5, 0.5, 2))


def test_whitening_equal_values_gives_zeros_not_noise() -> None:
    values = row(0.3, 0.3, 0.3)
    white = ppo_math.whiten(values, float(values.mean()), float(values.var()))
    assert white.abs().max() < 1e-3


def test_the_conservative_score_takes_spread_and_novelty_off() -> None:
    # means 2, 2 and 2, deviations 1, 0 and 0
    heads = torch.tensor([[1.0, 2.0, 2.0], [3.0, 2.0, 2.0]])
    novelty = torch.tensor([0.4, 1.5, 30.0])  # not, half and far beyond what is usual
    expected = torch.tensor([1.5, 1.95, 1.9])
    torch.testing.assert_close(ppo_math.conservative_score(heads, novelty, 0.5, 0.1), expected)
    alone = torch.tensor([[0.7, -0.2]])
    torch.testing.assert_close(
        ppo_math.conservative_score(alone, novelty[:1].expand(2), 9.0, 0.1), alone[0]
    )


def test_leave_one_out_compares_answers_to_one_prompt_only() -> None:
    # 1 - (2+6)/2 = -3, 2 - (1+6)/2 = -1.5, 6 - (1+2)/2 = 4.5; the second prompt's are equal
    rewards = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0])
    expected = torch.tensor([-3.0, -1.5, 4.5, 0.0, 0.0, 0.0])
    torch.testing.assert_close(ppo_math.leave_one_out(rewards, 3), expected)


def test_logprobs_divide_logits_by_the_temperature() -> None:
    logits = torch.tensor([[[math.log(3.0), 0.0]]])
    at_one = ppo_math.gathered_logprobs(logits, torch.tensor([[0]]), 1.0)
    at_half = ppo_math.gathered_logprobs(logits, torch.tensor([[0]]), 0.5)
    torch.testing.assert_close(at_one.exp(), row(0.75))
    torch.testing.assert_close(at_half.exp(), row(0.9))


def test_entropy_of_a_fair_coin_is_ln_2() -> None:
    token = torch.zeros(1, 1, dtype=torch.long)
    logprobs, entropy = ppo_math.logprobs_and_entropy(torch.zeros(1, 1, 2), token, 1.0)
    torch.testing.assert_close(entropy, row(math.log(2)))
    torch.testing.assert_close(logprobs, row(-math.log(2)))


def test_a_token_that_cannot_come_adds_nothing_to_the_entropy() -> None:
    logits, token = torch.tensor([[[0.0, 0.0, -math.inf]]]), torch.zeros(1, 1, dtype=torch.long)
    torch.testing.assert_close(
        ppo_math.logprobs_and_entropy(logits, token, 1.0)[1], row(math.log(2))
    )


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_gradients_of_logprobs_are_those_of_a_log_softmax(temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, 11, generator=generator).requires_grad_()
    tokens = torch.randint(11, (3, 4), generator=generator)
    weights = torch.randn(3, 4, generator=generator)
    ours = ppo_math.gathered_logprobs(logits, tokens, temperature)
    plain = (logits / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(ours, plain)
    (by_ours,) = torch.autograd.grad((ours * weights).sum(), logits)
    (by_plain,) = torch.autograd.grad((plain * weights).sum(), logits)
    torch.testing.assert_close(by_ours, by_plain)


def test_kl_estimators_on_a_worked_example() -> None:
    policy, reference = row(math.log(0.5)), row(math.log(0.25))
    torch.testing.assert_close(ppo_math.kl_k1(policy, reference), row(math.log(2)))
    torch.testing.assert_close(ppo_math.kl_k3(policy, reference), row(0.5 - 1 + math.log(2)))


def test_score_comes_at_the_last_answer_token_and_kl_at_each() -> None:
    rewards = ppo_math.token_rewards(
        torch.tensor([2.0]), row(0.5, 0.5, 9.0), row(1, 1, 0), kl_coefficient=0.1
    )
    torch.testing.assert_close(rewards, row(-0.05, 1.95, 0))


def test_an_empty_answer_gets_no_reward_anywhere() -> None:
    rewards = ppo_math.token_rewards(torch.tensor([2.0]), row(0.0, 0.0), row(0, 0), 0.1)
    assert not rewards.any()


def test_advantages_by_hand() -> None:
    # delta_1 = 1 - 0.4 = 0.6; delta_0 = 0 + 0.9*0.4 - 0.5 = -0.14
    # A_1 = 0.6; A_0 = -0.14 + 0.9*0.8*0.6 = 0.292
    found, returns = ppo_math.advantages(
        row(0.0, 1.0, 7.0), row(0.5, 0.4, 9.0), row(1, 1, 0), gamma=0.9, gae_lambda=0.8
    )
    torch.testing.assert_close(found, row(0.292, 0.6, 0))
    torch.testing.assert_close(returns, row(0.792, 1.0, 0))


def test_policy_loss_clips_only_where_it_would_gain() -> None:
    old, mask = row(0.0, 0.0), row(1, 1)
    new = row(math.log(1.5), math.log(0.5))
    # Gains: min(1.5*1, 1.2*1) = 1.2 and min(0.5*-1, 0.8*-1) = -0.8; loss = -(1.2 - 0.8)/2
    loss = ppo_math.policy_loss(new, old, row(1.0, -1.0), mask, 0.2)
    torch.testing.assert_close(loss, torch.tensor(-0.2))


def test_policy_loss_keeps_the_gradient_of_a_harmful_move() -> None:
    new = row(math.log(0.5)).requires_grad_()
    ppo_math.policy_loss(new, row(0.0), row(1.0), row(1), 0.2).backward()
    assert new.grad is not None
    assert new.grad.item() == pytest.approx(-0.5)


def test_value_loss_takes_the_larger_error() -> None:
    # plain error (3-0)^2 = 9; clipped value 0.2 gives 0.04; half the larger is 4.5
    loss = ppo_math.value_loss(row(3.0), row(0.0), row(0.0), row(1), 0.2)
    torch.testing.assert_close(loss, torch.tensor(4.5))


def test_clip_fraction_counts_tokens_outside_the_range() -> None:
    new = row(math.log(1.5), 0.0, math.log(9.0))
    assert ppo_math.clip_fraction(new, torch.zeros(1, 3), row(1, 1, 0), 0.2) == 0.5


def test_explained_variance_of_a_perfect_and_a_constant_critic() -> None:
    assert ppo_math.explained_variance(0.0, 2.0) == 1
    assert ppo_math.explained_variance(2.0, 2.0) == 0
    assert ppo_math.explained_variance(6.0, 2.0) == -2
    assert ppo_math.explained_variance(1.0, 0.0) == 0


floats = st.floats(-3, 3, width=32)


@settings(max_examples=50, deadline=None)
@given(st.lists(floats, min_size=2, max_size=8), st.lists(floats, min_size=8, max_size=8))
def test_k3_is_never_negative(policy: list[float], reference: list[float]) -> None:
    k3 = ppo_math.kl_k3(torch.tensor([policy]), torch.tensor([reference[: len(policy)]]))
    assert (k3 >= -1e-5).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(floats, min_size=1, max_size=6), st.integers(0, 3))
def test_padding_never_changes_advantages(rewards: list[float], padding: int) -> None:
    width = len(rewards)
    values = [0.5 * r + 0.1 for r in rewards]
    plain = ppo_math.advantages(row(*rewards), row(*values), torch.ones(1, width), 0.99, 0.9)
    padded = ppo_math.advantages(
        row(*rewards, *[5.0] * padding),
        row(*values, *[7.0] * padding),
        row(*[1.0] * width, *[0.0] * padding),
        0.99,
        0.9,
    )
    torch.testing.assert_close(padded[0][:, :width], plain[0])
    torch.testing.assert_close(padded[1][:, :width], plain[1])


@settings(max_examples=50, deadline=None)
@given(st.lists(floats, min_size=1, max_size=6))
def test_lambda_1_gives_the_sum_of_rewards_as_return(rewards: list[float]) -> None:
    values = torch.zeros(1, len(rewards))
    mask = torch.ones(1, len(rewards))
    _, returns = ppo_math.advantages(row(*rewards), values, mask, 1.0, 1.0)
    expected = torch.tensor([rewards]).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, expected, atol=1e-5, rtol=1e-5)
