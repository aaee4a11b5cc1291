"""Heads over the base policy's states as they are, without training an adapter: answers are read
once, so that many fits take the time of one training.

Legend: b answers, t answer tokens, h hidden width.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from rlhf_engine.backbone import Backbone
from rlhf_engine.first_heads import Differences, first_heads, scale_of
from rlhf_engine.generation import limited_threads
from rlhf_engine.plan import RewardPlan
from rlhf_engine.preferences import gather_pairs
from rlhf_engine.reward_math import bootstrap_weights
from rlhf_engine.reward_model import answer_states, read_layers
from rlhf_engine.votes import prompt_key
from rlhf_engine.written import written_answers
from service.commands.terminal import steps
from tests.benchmarks.reward_bench import Votes, plan_of

Key = tuple[object, str]
States = dict[Key, Tensor]


def end_states(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The state [b, h] at the end of each answer's turn, of hidden states [b, t + 1, h]."""
    return hidden[torch.arange(len(hidden), device=hidden.device), lengths].float()


READINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean of the answer": answer_states,
    "end of the turn": end_states,
}


@torch.no_grad()
def read_states(
    options: argparse.Namespace, sides: Sequence[Votes], reward: RewardPlan
) -> dict[str, States]:
    """The states [h] of all answers of all sides after the layers of the plan's `depth`, by each
    reading."""
    plan = plan_of(options, 17)
    whole = [vote for side in sides for vote in (*side.train, *side.held_out)]
    votes = {
        (prompt_key(each.prompt), each.answer_a, each.answer_b): each for each in whole
    }.values()
    asked = [(vote.prompt, text) for vote in votes for text in (vote.answer_a, vote.answer_b)]
    prompts, texts = [prompt for prompt, _ in asked], [text for _, text in asked]
    found: dict[str, States] = {name: {} for name in READINGS}
    done = 0
    with limited_threads(plan.threads), steps() as step:
        backbone = Backbone.load(Path(plan.base), plan.dtype)
        layers = read_layers(backbone, reward)
        for groups, places in written_answers(backbone, prompts, texts, plan):
            hidden = backbone.states(groups, layers)
            for name, reading in READINGS.items():
                for state, own in zip(reading(hidden, groups.lengths), places, strict=True):
                    found[name] |= {(prompt_key(asked[at][0]), asked[at][1]): state for at in own}
            done += sum(map(len, places))
            step(f"reading answers, {layers} layers", done, len(texts), None)
    return found


class HeadsAlone:
    """Heads fitted to votes over the states of all answers."""

    def __init__(self, states: States) -> None:
        self.states = states
        self.scale = scale_of(torch.stack(list(self.states.values())))

    def foretold(self, votes: Votes, reward: RewardPlan, seed: int) -> tuple[float, float]:
        """Share of the held-out votes that heads fitted to these votes foretell, and of the votes
        to learn from that heads fitted without their question do; a half each where they are too
        few to be fitted."""
        pairs = gather_pairs(votes.train, (), reward).pairs
        pairs = tuple(pair for pair in pairs if pair.kind == "votes")
        weights = bootstrap_weights(reward.heads, len(pairs), seed)
        numbers = {
            key: at for at, key in enumerate(dict.fromkeys(prompt_key(p.prompt) for p in pairs))
        }
        states = [
            self._apart(prompt_key(pair.prompt), pair.chosen, pair.rejected) / self.scale
            for pair in pairs
        ]
        found = first_heads(
            Differences(
                torch.stack(states),
                torch.tensor([pair.target for pair in pairs]),
                torch.tensor([pair.margin for pair in pairs]),
                weights * torch.tensor([pair.weight for pair in pairs]),
                torch.tensor([numbers[prompt_key(pair.prompt)] for pair in pairs]),
            ),
            self.scale,
        )
        if found is None:
            return 0.5, 0.5
        head = found.heads.mean(dim=0)
        right = [
            float(self._apart(prompt_key(v.prompt), v.chosen, v.rejected) @ head > 0)
            for v in votes.held_out
        ]
        return fmean(right), found.accuracy

    def _apart(self, prompt: object, chosen: str, rejected: str) -> Tensor:
        return self.states[prompt, chosen] - self.states[prompt, rejected]
