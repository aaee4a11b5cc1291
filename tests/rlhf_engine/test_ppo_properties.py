"""PPO's arithmetic: what holds for any input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_engine import ppo_math

any_input = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 6)
rates = st.sampled_from([0.0, 0.3, 0.95, 1.0])


def drawn(seed: int, *shape: int) -> Tensor:
    """Normal numbers in float64, so that rounding hides nothing."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def right_padded(seed: int, b: int, t: int) -> Tensor:
    """A mask [b, t] of answers of length 0 to t, the first of full length."""
    lengths = torch.randint(0, t + 1, (b,), generator=torch.Generator().manual_seed(seed))
    lengths[0] = t
    return (torch.arange(t) < lengths.unsqueeze(1)).double()


@any_input
@given(seeds, sizes, sizes, rates, rates)
def test_advantages_are_the_discounted_sum_of_all_later_errors(
    seed: int, b: int, t: int, gamma: float, gae_lambda: float
) -> None:
    rewards, values, mask = drawn(seed, b, t), drawn(seed + 1, b, t), right_padded(seed, b, t)
    rewards = rewards * mask
    found, returns = ppo_math.advantages(rewards, values, mask, gamma, gae_lambda)
    for row in range(b):
        length = int(mask[row].sum())
        v = [*values[row, :length].tolist(), 0.0]
        r = rewards[row].tolist()
        errors = [r[at] + gamma * v[at + 1] - v[at] for at in range(length)]
        for at in range(length):
            direct = sum(
                (gamma * gae_lambda) ** (later - at) * errors[later] for later in range(at, length)
            )
            assert abs(float(found[row, at]) - direct) < 1e-9
            assert abs(float(returns[row, at]) - direct - v[at]) < 1e-9
        assert not found[row, length:].any()
        assert not returns[row, length:].any()


Masked = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
MASKED: dict[str, Masked] = {
    "masked_mean": lambda a, _b, _c, mask: ppo_math.masked_mean(a, mask),
    "policy_loss": lambda a, b, c, mask: ppo_math.policy_loss(a, b, c, mask, 0.2),
    "value_loss": lambda a, b, c, mask: ppo_math.value_loss(a, b, c, mask, 0.2),
    "clip_fraction": lambda a, b, _c, mask: ppo_math.clip_fraction(a, b, mask, 0.2),
    "sequence_kl": lambda a, _b, _c, mask: ppo_math.sequence_kl(a, mask),
    "token_rewards": lambda a, b, _c, mask: ppo_math.token_rewards(a[:, 0], b, mask, 0.1),
    "advantages": lambda a, b, _c, mask: ppo_math.advantages(a * mask, b, mask, 0.9, 0.8)[0],
    "returns": lambda a, b, _c, mask: ppo_math.advantages(a * mask, b, mask, 0.9, 0.8)[1],
}


@any_input
@given(st.sampled_from(sorted(MASKED)), seeds, sizes, sizes)
def test_what_stands_on_padding_is_never_read(name: str, seed: int, b: int, t: int) -> None:
    mask = right_padded(seed, b, t)
    mask[:, 0] = 1  # token_rewards takes its scores from the first column
    plain = [drawn(seed + at, b, t) for at in range(3)]
    # Whose exponential is finite: padding in the engine is finite too.
    changed = [torch.where(mask.bool(), each, 50 * each.sign()) for each in plain]
    found, expected = (MASKED[name](*values, mask) for values in (changed, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@any_input
@given(seeds, sizes, sizes)
def test_at_ratio_1_the_gradient_is_the_plain_policy_gradient(seed: int, b: int, t: int) -> None:
    """d loss / d log p = -A / number of tokens, on each token of an answer."""
    old, advantage, mask = drawn(seed, b, t), drawn(seed + 1, b, t), right_padded(seed, b, t)
    new = old.clone().requires_grad_()
    ppo_math.policy_loss(new, old, advantage, mask, 0.2).backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None
    torch.testing.assert_close(new.grad, -advantage * mask / mask.sum())


@any_input
@given(seeds, sizes, sizes)
def test_beyond_the_clip_range_a_gain_pulls_no_further(seed: int, b: int, t: int) -> None:
    advantage, mask = drawn(seed, b, t), torch.ones(b, t, dtype=torch.float64)
    new = (0.5 * advantage.sign()).requires_grad_()  # ratios e^0.5 and e^-0.5: already gained
    ppo_math.policy_loss(new, torch.zeros(b, t), advantage, mask, 0.2).backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None
    assert not new.grad.any()


@any_input
@given(seeds, sizes, sizes, st.floats(0.01, 2))
def test_the_value_loss_is_never_below_the_plain_error(
    seed: int, b: int, t: int, clip: float
) -> None:
    values, old, returns = (drawn(seed + at, b, t) for at in range(3))
    mask = right_padded(seed, b, t)
    plain = 0.5 * ppo_math.masked_mean((values - returns) ** 2, mask)
    clipped = ppo_math.value_loss(values, old, returns, mask, clip)
    assert clipped >= plain - 1e-12
    unmoved = ppo_math.value_loss(old, old, returns, mask, clip)
    torch.testing.assert_close(unmoved, 0.5 * ppo_math.masked_mean((old - returns) ** 2, mask))


@any_input
@given(seeds, sizes, st.integers(2, 16), st.floats(-5, 5))
def test_leave_one_out_sums_to_nothing_and_ignores_what_a_group_shares(
    seed: int, groups: int, g: int, shared: float
) -> None:
    rewards = drawn(seed, groups * g)
    found = ppo_math.leave_one_out(rewards, g)
    sums = found.view(groups, g).sum(dim=1)
    torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        ppo_math.leave_one_out(rewards + shared, g), found, rtol=0, atol=1e-9
    )
    equal = torch.full((groups * g,), shared, dtype=torch.float32)
    assert not ppo_math.leave_one_out(equal, g).any()


@any_input
@given(seeds, st.integers(2, 6))
def test_both_kl_estimators_mean_the_true_kl(seed: int, v: int) -> None:
    """Over all tokens, weighted by their probability, k1 and k3 are KL(policy || reference)."""
    policy = torch.log_softmax(drawn(seed, v), dim=-1)
    reference = torch.log_softmax(drawn(seed + 1, v), dim=-1)
    true = torch.nn.functional.kl_div(reference, policy, log_target=True, reduction="sum")
    for estimator in ppo_math.KL_ESTIMATORS.values():
        torch.testing.assert_close((policy.exp() * estimator(policy, reference)).sum(), true)
    assert not ppo_math.kl_k3(policy, policy).any()


@any_input
@given(seeds, sizes, sizes, st.floats(0, 2))
def test_an_answers_token_rewards_sum_to_its_score_minus_the_penalty(
    seed: int, b: int, t: int, coefficient: float
) -> None:
    scores, kl, mask = drawn(seed, b), drawn(seed + 1, b, t), right_padded(seed, b, t)
    found = ppo_math.token_rewards(scores, kl, mask, coefficient).sum(dim=1)
    expected = (scores - coefficient * (kl * mask).sum(dim=1)) * mask.any(dim=1)
    torch.testing.assert_close(found, expected)


@any_input
@given(seeds, sizes, sizes, st.floats(0, 3))
def test_a_conservative_score_never_exceeds_the_mean_of_the_heads(
    seed: int, k: int, b: int, penalty: float
) -> None:
    heads, familiar = drawn(seed, k, b), torch.ones(b, dtype=torch.float64)
    found = ppo_math.conservative_score(heads, familiar, penalty, penalty)
    assert (found <= heads.mean(dim=0) + 1e-12).all()
    further = ppo_math.conservative_score(heads, familiar + 0.5, penalty, penalty)
    torch.testing.assert_close(further, found - 0.5 * penalty)
    furthest = ppo_math.conservative_score(heads, familiar + 9, penalty, penalty)
    torch.testing.assert_close(furthest, found - penalty)  # no more than the whole of it
    same = ppo_math.conservative_score(heads[:1].expand(k, b), familiar, penalty, penalty)
    torch.testing.assert_close(same, heads[0])
    raised = ppo_math.conservative_score(heads + 2.5, familiar, penalty, penalty)
    torch.testing.assert_close(raised, found + 2.5)  # what all heads add is trusted


@any_input
@given(seeds, st.integers(2, 40), st.floats(-100, 100), st.floats(0.01, 100))
def test_whitened_values_forget_shift_and_scale(
    seed: int, n: int, shift: float, scale: float
) -> None:
    values = shift + scale * torch.arange(n, dtype=torch.float64) * (1 + seed % 7)
    mean, variance = float(values.mean()), float(values.var(unbiased=False))
    white = ppo_math.whiten(values, mean, variance)
    assert abs(float(white.mean())) < 1e-6
    assert abs(float(white.std(unbiased=False)) - 1) < 1e-3
    torch.testing.assert_close(white.argsort(), torch.arange(n))


@any_input
@given(seeds, sizes, st.integers(2, 8), st.floats(0.1, 3))
def test_gathered_logprobs_are_those_of_the_softmax(
    seed: int, t: int, v: int, temperature: float
) -> None:
    logits = drawn(seed, 2, t, v)
    tokens = drawn(seed + 1, 2, t, v).argmax(dim=-1)
    found, entropies = ppo_math.logprobs_and_entropy(logits, tokens, temperature)
    full = torch.log_softmax(logits / temperature, dim=-1)
    expected = full.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).float()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (entropies >= -1e-6).all()
    assert (entropies <= torch.tensor(float(v)).log() + 1e-5).all()
