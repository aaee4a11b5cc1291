"""The arithmetic of the reward model's loss, pure functions of tensors.

Legend: k score heads, b pairs. Scores are [k, b], what votes say is [b].

Sources: Bradley-Terry with a margin (Llama 2, arXiv 2307.09288), soft targets
for uncertain votes (Secrets of RLHF II, arXiv 2401.06080), centring (Eisenstein et al. 2023,
arXiv 2312.09244), Bayesian bootstrap (Rubin 1981).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

DRAWS = 4


def preference_loss(chosen: Tensor, rejected: Tensor, target: Tensor, margin: Tensor) -> Tensor:
    """Cross-entropy of the votes under Bradley-Terry; [k, b].

    With d = chosen - rejected - margin: -(target log s(d) + (1 - target) log s(-d)), s the
    logistic function. `target` is the probability that the chosen answer is the better one.
    """
    difference = chosen - rejected - margin
    return -(target * logsigmoid(difference) + (1 - target) * logsigmoid(-difference))


def centring_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Square of the pair's sum: votes leave the zero of the scores open, this sets it; [k, b]."""
    return (chosen + rejected) ** 2


def both_bad_loss(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy of "each of the two loses to a typical answer"; [k, b].

    Centring puts the typical answer at 0, so under Bradley-Terry an answer of score s loses
    to it with probability s(-s). Nothing is said of which of the two is better.
    """
    return (softplus(first) + softplus(second)) / 2


def bootstrap_weights(heads: int, count: int, seed: int) -> Tensor:
    """Weights of `count` pairs for each head, [k, count], mean 1: a tempered Bayesian bootstrap.

    Means of `DRAWS` exponential draws, so that no pair is lost to any head, however few there
    are. A single draw is the plain bootstrap, which spreads the heads more and costs the
    adapter that three heads share a quarter of its evidence. A single head weighs all alike.
    """
    if heads == 1:
        return torch.ones(1, count)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.empty(DRAWS, heads, count).exponential_(generator=generator).mean(dim=0)
    return draws / draws.mean(dim=1, keepdim=True)


def comparison_loss(
    chosen: Tensor,
    rejected: Tensor,
    target: Tensor,
    margin: Tensor,
    both_bad: Tensor,
    weights: Tensor,
    centre_coefficient: float,
    both_bad_weight: float,
) -> Tensor:
    """The whole loss of each head and pair, [k, b].

    weights [k, b] hold the pair's weight times the head's bootstrap weight; both_bad [b] is
    true where neither answer was good.
    """
    judged = preference_loss(chosen, rejected, target, margin)
    judged = judged + centre_coefficient * centring_loss(chosen, rejected)
    bad = both_bad_weight * both_bad_loss(chosen, rejected)
    return weights * torch.where(both_bad, bad, judged)
