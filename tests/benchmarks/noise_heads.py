"""What flipped votes cost the heads that training begins with: states are read once, so that many
draws of flips are fitted in the time of one training."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from rlhf_engine import Comparison, Prompt
from rlhf_engine.backbone import Backbone
from rlhf_engine.first_heads import Differences, first_heads, scale_of
from rlhf_engine.generation import limited_threads
from rlhf_engine.plan import RewardPlan
from rlhf_engine.preferences import gather_pairs
from rlhf_engine.reward_math import bootstrap_weights
from rlhf_engine.reward_model import last_states
from rlhf_engine.votes import prompt_key
from rlhf_engine.written import written_answers
from tests.benchmarks.reward_bench import Votes, plan_of
from tests.benchmarks.seed_interval import seed_interval

Key = tuple[object, str]
Flip = Callable[[Votes, float, int], Votes]


class HeadsAlone:
    """The base policy's states of all answers, and heads fitted to votes over them."""

    def __init__(self, options: argparse.Namespace, votes: Votes) -> None:
        self.plan = plan_of(options, 17).reward_model
        self.states = _read(options, (*votes.train, *votes.held_out))
        self.scale = scale_of(torch.stack(list(self.states.values())))

    def accuracy(self, votes: Votes, reward: RewardPlan, seed: int) -> float:
        """Share of the held-out votes that heads fitted to these votes foretell; a half where they
        are too few to be fitted."""
        pairs = gather_pairs(votes.train, (), reward).pairs
        pairs = tuple(pair for pair in pairs if pair.kind == "votes")
        weights = bootstrap_weights(reward.heads, len(pairs), seed)
        numbers = {key: at for at, key in enumerate(dict.fromkeys(_about(p.prompt) for p in pairs))}
        states = [
            self._apart(_about(pair.prompt), pair.chosen, pair.rejected) / self.scale
            for pair in pairs
        ]
        found = first_heads(
            Differences(
                torch.stack(states),
                torch.tensor([pair.target for pair in pairs]),
                torch.tensor([pair.margin for pair in pairs]),
                weights * torch.tensor([pair.weight for pair in pairs]),
                torch.tensor([numbers[_about(pair.prompt)] for pair in pairs]),
            ),
            self.scale,
        )
        if found is None:
            return 0.5
        head = found.heads.mean(dim=0)
        right = [
            float(self._apart(_about(v.prompt), v.chosen, v.rejected) @ head > 0)
            for v in votes.held_out
        ]
        return fmean(right)

    def _apart(self, prompt: object, chosen: str, rejected: str) -> Tensor:
        return self.states[prompt, chosen] - self.states[prompt, rejected]


def print_heads(
    options: argparse.Namespace, votes: Votes, shares: Sequence[float], flip: Flip
) -> float:
    """The table over `--draws` draws of flips; the most that is lost on average."""
    alone = HeadsAlone(options, votes)
    print(f"\nheads alone, {options.draws} draws of flips each")
    print(f"{'flipped':>8} {'accuracy':>9} {'lost':>7} {'95% interval':>17}")
    clean = alone.accuracy(votes, alone.plan, 17)
    print(f"{0:8.0%} {clean:9.3f}", flush=True)
    most = 0.0
    for share in shares:
        found = [
            alone.accuracy(flip(votes, share, seed), alone.plan, 17)
            for seed in range(options.draws)
        ]
        lost = seed_interval([clean - each for each in found])
        most = max(most, lost.value)
        between = f"{lost.lower:.3f} to {lost.upper:.3f}"
        print(f"{share:8.0%} {fmean(found):9.3f} {lost.value:7.3f} {between:>17}", flush=True)
    return most


def _about(prompt: Prompt) -> object:
    return prompt_key(prompt)


@torch.no_grad()
def _read(options: argparse.Namespace, votes: Sequence[Comparison]) -> dict[Key, Tensor]:
    """The state [h] in which each answer's score is read."""
    plan = plan_of(options, 17)
    asked = [(vote.prompt, text) for vote in votes for text in (vote.answer_a, vote.answer_b)]
    prompts, texts = [prompt for prompt, _ in asked], [text for _, text in asked]
    found: dict[Key, Tensor] = {}
    with limited_threads(plan.threads):
        backbone = Backbone.load(Path(plan.base), plan.dtype)
        for groups, places in written_answers(backbone, prompts, texts, plan):
            states = last_states(backbone.states(groups), groups.lengths).float()
            for state, own in zip(states, places, strict=True):
                found |= {(_about(asked[at][0]), asked[at][1]): state for at in own}
    return found
