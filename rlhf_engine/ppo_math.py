"""The arithmetic of PPO, pure functions of tensors.

Legend: b batch, t answer tokens, v vocabulary. A mask is [b, t] with 1 on answer tokens
(the end-of-turn token among them) and 0 on padding; padding never enters a mean.

Sources: PPO (Schulman et al. 2017, arXiv 1707.06347), GAE (Schulman et al. 2016,
arXiv 1506.02438), k1 and k3 estimators (Schulman, "Approximating KL Divergence", 2020),
reward shaping as in InstructGPT (Ouyang et al. 2022, arXiv 2203.02155).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` [b, t] where `mask` is 1; 0 where the mask is empty."""
    mask = mask.to(values.dtype)
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mean: float, variance: float) -> Tensor:
    """Values shifted by their mean and divided by the root of their variance, shape kept.

    Values that are all alike become 0, not noise blown up by a division by almost nothing.
    """
    return (values - mean) / math.sqrt(variance + 1e-8)


def gathered_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Log-probability of each token at the sampling temperature.

    logits [b, t, v], tokens [b, t] -> [b, t] in float32. One number a token is kept.
    """
    logprobs, _ = _LogprobsAndEntropy.apply(logits, tokens, temperature, False)  # type: ignore[no-untyped-call]
    found: Tensor = logprobs
    return found


def logprobs_and_entropy(
    logits: Tensor, tokens: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The same, and the entropy in nats of each next-token distribution, both [b, t] in float32.

    Rows are taken one by one, so that no float32 copy of all logits is ever made; what the
    gradient needs is kept in the logits' own number format. No gradient flows to the entropy.
    """
    logprobs, entropy = _LogprobsAndEntropy.apply(logits, tokens, temperature, True)  # type: ignore[no-untyped-call]
    return logprobs, entropy


class _LogprobsAndEntropy(torch.autograd.Function):
    """log p(token) = s_token - log sum exp s, with s the scaled logits; its gradient by the
    logits is (1[token] - p) / temperature. H = log sum exp s - sum p s."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        """logits [b, t, v], tokens [b, t] -> two of [b, t]; the second is 0 if not wanted."""
        learning = logits.requires_grad
        kept = torch.empty_like(logits) if learning else None
        logprobs = torch.empty(tokens.shape, dtype=torch.float32, device=logits.device)
        entropy = torch.zeros_like(logprobs)
        for row in range(len(logits)):
            scaled = logits[row].float() / temperature
            normaliser = scaled.logsumexp(dim=-1, keepdim=True)
            chosen = scaled.gather(-1, tokens[row].unsqueeze(-1))
            logprobs[row] = (chosen - normaliser).squeeze(-1)
            if kept is None and not with_entropy:
                continue
            p = (scaled - normaliser).exp_()
            # An impossible token (-inf) adds nothing, and not 0 times infinity.
            entropy[row] = normaliser.squeeze(-1) - scaled.nan_to_num_(neginf=0.0).mul_(p).sum(-1)
            if kept is not None:
                kept[row] = p
        if kept is not None:
            ctx.save_for_backward(kept, tokens, logprobs)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        """gradient [b, t] of the log-probabilities -> [b, t, v] of the logits."""
        p, tokens, logprobs = ctx.saved_tensors
        scaled = gradient / ctx.temperature
        result = p * -scaled.unsqueeze(-1).to(p.dtype)
        # 1 - p of a token that is almost certain would be lost in the logits' number format.
        at_token = -torch.expm1(logprobs) * scaled
        at_token = at_token.unsqueeze(-1).to(p.dtype)
        return result.scatter_(-1, tokens.unsqueeze(-1), at_token), None, None, None


def kl_k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference), unbiased: log p - log r. [b, t]"""
    return logprobs - reference


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Per-token estimate of the same, never negative: r/p - 1 - log(r/p). [b, t]"""
    log_ratio = reference - logprobs
    return log_ratio.exp() - 1 - log_ratio


KL_ESTIMATORS = {"k1": kl_k1, "k3": kl_k3}


def head_spread(heads: Tensor) -> Tensor:
    """How far a reward model's heads disagree on each answer: [k, b] -> deviation [b]."""
    return heads.std(dim=0, unbiased=False)


def conservative_score(
    heads: Tensor, novelty: Tensor, spread_penalty: float, novelty_penalty: float
) -> Tensor:
    """Mean of the heads minus a multiple of their spread: [k, b] -> [b].

    What the heads do not agree on is not trusted (Coste et al. 2023, arXiv 2310.02743, with
    the standard deviation in place of the variance, so that the penalty has the score's unit),
    and neither is what lies beyond the answers that people voted on: novelty [b] above 1. At 2
    and more the whole penalty is taken: how far off nonsense is says nothing, and one answer
    that is ten times as far would leave the rewards of all others without a difference.
    """
    beyond = (novelty - 1).clamp(min=0, max=1)
    return heads.mean(dim=0) - spread_penalty * head_spread(heads) - novelty_penalty * beyond


def leave_one_out(rewards: Tensor, g: int) -> Tensor:
    """Each reward minus the mean of the g - 1 others to the same prompt: [b] -> [b].

    RLOO (Ahmadian et al. 2024, arXiv 2402.14740, eq. 8); rows i g to i g + g - 1 share prompt i.
    """
    # In float64 equal rewards cancel exactly; whitening would blow up a rounding error.
    grouped = rewards.double().view(-1, g)
    others = (grouped.sum(dim=1, keepdim=True) - grouped) / (g - 1)
    return (grouped - others).flatten().to(rewards.dtype)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """Reward of each token: minus the KL penalty, and the answer's score at its last token.

    scores [b], kl and mask [b, t] -> [b, t] (InstructGPT, section 3.5). An answer without
    a token (all-zero mask) gets no reward anywhere.
    """
    rewards = -kl_coefficient * kl * mask
    last = (mask.sum(dim=1).long() - 1).clamp(min=0)
    has_tokens = mask.any(dim=1)
    rewards[torch.arange(len(scores)), last] += scores * has_tokens
    return rewards


def advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, both [b, t] (arXiv 1506.02438, eq. 16).

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lambda A_{t+1};
    return_t = A_t + V_t. The value after an answer's last token is 0.
    """
    mask = mask.to(rewards.dtype)
    values = values * mask
    result = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    width = rewards.shape[1]
    for t in reversed(range(width)):
        next_value = values[:, t + 1] if t + 1 < width else torch.zeros_like(following)
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * gae_lambda * following) * mask[:, t]
        result[:, t] = following
    return result, (result + values) * mask


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantage: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    """Clipped surrogate loss, a scalar to minimise (arXiv 1707.06347, eq. 7).

    -E[min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)]; all arguments [b, t].
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return masked_mean(torch.maximum(-ratio * advantage, -clipped * advantage), mask)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    """Clipped squared error of the critic, a scalar: half the larger of the plain and the
    clipped error at each token (OpenAI baselines, ppo2). All arguments [b, t]."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    error = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * masked_mean(error, mask)


def clip_fraction(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    """Share of tokens whose ratio lies outside the clip range."""
    ratio = (logprobs - old_logprobs).exp()
    return masked_mean(((ratio - 1).abs() > clip_range).float(), mask)


def explained_variance(error_variance: float, return_variance: float) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 a constant one.

    0 where the returns do not vary.
    """
    return 1 - error_variance / return_variance if return_variance > 1e-12 else 0.0


def sequence_kl(kl: Tensor, mask: Tensor) -> Tensor:
    """Mean over answers of the KL summed over their tokens, in nats: [b, t] -> scalar."""
    return (kl * mask).sum(dim=1).mean()
