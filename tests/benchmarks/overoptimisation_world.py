"""A world with a hidden gold preference, and a reward model that saw noisy votes of it.

Gold: the mean worth of an answer's tokens, minus what repeats cost: few of them little, many
of them more than words are worth. A token's worth is linear in
its embedding, and the proxy is linear in an answer's mean embedding, so it can learn worth. It
learns it imperfectly, from few votes of which some are wrong; and it is blind to repeats, which
are rare in the SFT policy's answers: a policy that says the one best word over and over pleases
the proxy, and not the gold.

Legend: k heads, n comparisons, b answers, t answer tokens, h hidden width, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_engine.backbone import AnswerGroups, Backbone
from rlhf_engine.critic import Critic
from rlhf_engine.novelty import Novelty
from rlhf_engine.plan import RunPlan
from rlhf_engine.reward_math import bootstrap_weights
from rlhf_engine.reward_model import Judgement
from rlhf_engine.rollout import REFERENCE
from tests.benchmarks.ppo_learns_tiny import PROMPTS, fresh_answers

COMPARISONS = 480
NOISE = 0.25
"""Share of votes that are flipped."""
REPEAT_COST = 4.0
"""What an answer of nothing but repeats would lose."""
RIDGE = 0.01
VOTE_SEED = 2 * 10**6


@dataclass(frozen=True, slots=True)
class Gold:
    """The hidden preference: each token's worth [v], mean 0 and deviation 1."""

    worth: Tensor

    @classmethod
    def drawn(cls, backbone: Backbone, seed: int) -> Gold:
        """A direction in embedding space, drawn by the seed."""
        embeddings = backbone.model.get_input_embeddings().weight.detach()
        drawn = torch.Generator().manual_seed(seed)
        worth = embeddings @ torch.randn(embeddings.shape[1], generator=drawn)
        return cls((worth - worth.mean()) / worth.std())

    def rewards(self, groups: AnswerGroups) -> Tensor:
        """Gold of each answer [b]."""
        mask, lengths = groups.answer_mask, groups.lengths.clamp(min=1)
        mean = (self.worth[groups.answers] * mask).sum(dim=1) / lengths
        return mean - REPEAT_COST * repeated_share(groups) ** 2


def repeated_share(groups: AnswerGroups) -> Tensor:
    """Share of each answer's tokens that stood in it before, [b]."""
    shares = [
        1 - len(set(row[:length])) / max(length, 1)
        for row, length in zip(groups.answers.tolist(), groups.lengths.tolist(), strict=True)
    ]
    return torch.tensor(shares)


class Proxy:
    """The judge: k linear heads over the mean embedding of an answer, fitted to votes by
    logistic regression (Bradley-Terry). Scores have mean 0 and deviation 1 over the SFT
    policy's answers, as the reward model's have."""

    def __init__(self, backbone: Backbone, heads: Tensor, offset: Tensor, novelty: Novelty) -> None:
        self.backbone, self.heads, self.offset = backbone, heads, offset
        self.novelty = novelty

    def judge(self, groups: AnswerGroups) -> Judgement:
        """Scores and novelty from mean embeddings; the policy's own states for the critic."""
        read = mean_embedding(self.backbone, groups)
        scores = self.heads @ read.T - self.offset.unsqueeze(1)
        return Judgement(
            scores, self.novelty.of(read), hidden_states(self.backbone, groups)[:, :-1]
        )


@dataclass(frozen=True, slots=True)
class Votes:
    """What the proxies learn from: the answers, their states [b, t + 1, h], and which of each
    two neighbours was preferred, [n] of 0 and 1."""

    groups: AnswerGroups
    states: Tensor
    preferred: Tensor

    @classmethod
    def cast(cls, backbone: Backbone, plan: RunPlan, gold: Gold, count: int) -> Votes:
        """About `count` votes, each on two answers of the SFT policy to one prompt; `NOISE` of
        them are flipped."""
        each = 2 * max(1, count // len(PROMPTS))
        groups = fresh_answers(backbone, plan, each, VOTE_SEED)
        rewards = gold.rewards(groups)
        better = rewards[1::2] > rewards[::2]
        drawn = torch.Generator().manual_seed(plan.seed)
        flipped = torch.rand(len(better), generator=drawn) < NOISE
        return cls(groups, hidden_states(backbone, groups), (better ^ flipped).long())

    def proxy(self, backbone: Backbone, k: int, seed: int) -> Proxy:
        """k heads; each weighs the votes otherwise, as the reward model's heads do."""
        means = mean_embedding(backbone, self.groups)
        first = torch.arange(len(self.preferred)) * 2
        differences = means[first + self.preferred] - means[first + 1 - self.preferred]
        weights = bootstrap_weights(k, len(differences), seed)
        heads = torch.stack([_fitted(differences, each) for each in weights])
        raw = heads @ means.T
        heads = heads / raw.std(dim=1, keepdim=True)
        novelty = Novelty.fitted(means, torch.arange(len(means)) // (len(means) // len(PROMPTS)))
        return Proxy(backbone, heads, (heads @ means.T).mean(dim=1), novelty)

    def critic(self, proxy: Proxy) -> Critic:
        """PPO's critic, fitted to the SFT policy's answers as the reward model's stage does."""
        mask = self.groups.answer_mask.bool()
        numbers = torch.arange(len(mask)).unsqueeze(1).expand(mask.shape)[mask]
        scores = proxy.judge(self.groups).scores.mean(dim=0)
        asked = numbers // (len(mask) // len(PROMPTS))
        return Critic.fitted(self.states[:, :-1][mask], scores[numbers], asked)


@torch.no_grad()
def hidden_states(backbone: Backbone, groups: AnswerGroups) -> Tensor:
    """The SFT policy's states [b, t + 1, h]."""
    with backbone.using(REFERENCE):
        return backbone.states(groups)


@torch.no_grad()
def mean_embedding(backbone: Backbone, groups: AnswerGroups) -> Tensor:
    """Mean input embedding of each answer's tokens, [b, h]."""
    mask = groups.answer_mask.unsqueeze(2)
    embedded: Tensor = backbone.model.get_input_embeddings()(groups.answers)
    return (embedded * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _fitted(differences: Tensor, weights: Tensor) -> Tensor:
    """Ridge-penalised logistic regression on chosen minus rejected: [n, h], [n] -> [h]."""
    scale = differences.std(dim=0).clamp(min=1e-6)
    head = torch.zeros(differences.shape[1], requires_grad=True)
    climb = torch.optim.LBFGS([head], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        climb.zero_grad()
        margins = (differences / scale) @ head
        value = (weights * torch.nn.functional.softplus(-margins)).mean()
        value = value + RIDGE * head.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    climb.step(loss)  # type: ignore[no-untyped-call]
    return head.detach() / scale
