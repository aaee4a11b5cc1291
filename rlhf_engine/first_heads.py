"""The score heads that training begins with: what the SFT policy's states foretell as they are.

A head drawn at random knows nothing, and the adapter first learns to please it. The best linear
head over the untouched states knows what few votes can say, and gives the adapter's first steps
their direction (linear probing, then fine-tuning: Kumar et al. 2022, arXiv 2202.10054). How much
the heads may believe of few or flipped votes is found by cross-validation over questions.

Legend: k heads, b pairs, h hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf_engine.backbone import AnswerGroups, Backbone
from rlhf_engine.pair_rows import LABELS, PairCollator
from rlhf_engine.reward_math import preference_loss
from rlhf_engine.reward_model import answer_states

RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Penalties tried, on the squared length of a head over standardised states of length one."""

FOLDS = 5
MOST_STEPS = 60


class Differences(NamedTuple):
    """What the heads learn from: each pair's chosen minus rejected state, standardised [b, h];
    the pair's target and margin [b], the heads' weights [k, b], its question's number [b]."""

    states: Tensor
    target: Tensor
    margin: Tensor
    weights: Tensor
    questions: Tensor

    def of(self, rows: Tensor) -> Differences:
        """The pairs where `rows` [b] is true."""
        states, target, margin, weights, questions = self
        return Differences(
            states[rows], target[rows], margin[rows], weights[:, rows], questions[rows]
        )


@dataclass(frozen=True, slots=True)
class FirstHeads:
    """Heads [k, h] over raw states, the penalty that was chosen, and the share of pairs that
    heads fitted without their question foretell (of those with a target above one half)."""

    heads: Tensor
    ridge: float
    accuracy: float


@torch.no_grad()
def read_differences(
    backbone: Backbone,
    rows: Sequence[dict[str, Any]],
    layers: int,
    on_row: Callable[[int, int], None],
) -> tuple[Differences, Tensor]:
    """Read the answers of all rows (pair_rows.tokenised) after so many layers with the adapter in
    use; the pairs that say which answer is better, and what each standardised state was divided
    by [h]."""
    collate = PairCollator(backbone.pad_id)
    states: list[Tensor] = []
    sides: list[tuple[Tensor, Tensor]] = []
    labels: dict[str, list[Tensor]] = {name: [] for name in (*LABELS, "questions")}
    seen = 0
    for done, row in enumerate(rows, start=1):
        batch = collate([row])
        found = _states(backbone, batch, layers)
        sides.append((batch["chosen"] + seen, batch["rejected"] + seen))
        states.append(found)
        seen += len(found)
        for name in LABELS:
            labels[name].append(batch[name])
        labels["questions"].append(torch.full_like(batch["chosen"], row["question"]))
        on_row(done, len(rows))
    every = torch.cat(states)
    scale = scale_of(every)
    chosen, rejected = (torch.cat(side) for side in zip(*sides, strict=True))
    joined = {name: torch.cat(values) for name, values in labels.items()}
    pairs = Differences(
        levelled((every[chosen] - every[rejected]) / scale, every.mean(dim=0) / scale),
        joined["target"],
        joined["margin"],
        joined["weights"].T,
        joined["questions"],
    )
    return pairs.of(~joined["both_bad"]), scale


def scale_of(states: Tensor) -> Tensor:
    """What to divide states [a, h] by, [h], so that they have deviation 1 in every direction and,
    on average, length one."""
    return states.std(dim=0).clamp(min=1e-6) * math.sqrt(states.shape[1])


def levelled(differences: Tensor, typical: Tensor) -> Tensor:
    """Differences [b, h] without what lies along the typical state [h], both standardised.

    Heads fitted to the rest score the typical answer 0. Differences leave the level of the scores
    open, and it may lie several deviations off; the adapter would first have to learn that away.
    """
    along = typical / typical.square().sum().sqrt().clamp(min=1e-6)
    return differences - (differences @ along).unsqueeze(1) * along


def first_heads(
    pairs: Differences, scale: Tensor, on_ridge: Callable[[int, int], None] | None = None
) -> FirstHeads | None:
    """Fit by penalised Bradley-Terry, the penalty by cross-validation over questions; None where
    no pair says which answer is better, or the questions are too few to leave some out.

    Where the strongest penalty forecasts best, votes say little, but its heads still point where
    most of them do; that is worth more than chance (tests/benchmarks/noise.py). `on_ridge` hears
    how many penalties of how many were tried.
    """
    folds = torch.unique(pairs.questions, return_inverse=True)[1] % FOLDS
    if len(torch.unique(folds)) < FOLDS or not (pairs.target > 0.5).any():
        return None
    unseen: dict[float, tuple[float, float]] = {}
    for at, each in enumerate(RIDGES, start=1):
        unseen[each] = _unseen_loss(pairs, folds, each)
        if on_ridge is not None:
            on_ridge(at, len(RIDGES))
    ridge = min(RIDGES, key=lambda each: unseen[each][0])
    return FirstHeads(_fitted(pairs, ridge) / scale, ridge, unseen[ridge][1])


def _states(backbone: Backbone, batch: dict[str, Tensor], layers: int) -> Tensor:
    """States [answers of the row, h] in which scores are read."""
    names = ("prompts", "prompt_mask", "answers", "answer_mask")
    groups = AnswerGroups(*(batch[name].to(backbone.device) for name in names))
    return answer_states(backbone.states(groups, layers), groups.lengths).cpu()


def _unseen_loss(pairs: Differences, folds: Tensor, ridge: float) -> tuple[float, float]:
    """Mean loss and accuracy over the pairs of each fold, of heads that did not see it."""
    losses, right = [], []
    for fold in range(FOLDS):
        left_out = pairs.of(folds == fold)
        heads = _fitted(pairs.of(folds != fold), ridge).mean(dim=0, keepdim=True)
        losses.append(_loss(heads, left_out).flatten())
        decided = left_out.target > 0.5
        right.append((left_out.states[decided] @ heads[0] > 0).float())
    accuracy = torch.cat(right)
    return float(torch.cat(losses).mean()), float(accuracy.mean()) if len(accuracy) else 0.5


def _loss(heads: Tensor, pairs: Differences) -> Tensor:
    """Cross-entropy of the votes, by how much a pair weighs on average over the heads: [k, b]."""
    difference = heads @ pairs.states.T
    zero = torch.zeros_like(difference)
    return pairs.weights.mean(dim=0) * preference_loss(difference, zero, pairs.target, zero)


def _fitted(pairs: Differences, ridge: float) -> Tensor:
    """Heads [k, h] over standardised states, by Newton-like descent (L-BFGS): a convex problem."""
    k, h = len(pairs.weights), pairs.states.shape[1]
    heads = torch.zeros(k, h, requires_grad=True)
    descent = torch.optim.LBFGS([heads], max_iter=MOST_STEPS, line_search_fn="strong_wolfe")
    zero = torch.zeros(k, len(pairs.target))

    def loss() -> Tensor:
        descent.zero_grad()
        difference = heads @ pairs.states.T
        fit = (pairs.weights * preference_loss(difference, zero, pairs.target, pairs.margin)).sum()
        whole = fit + ridge / 2 * heads.square().sum()
        whole.backward()  # type: ignore[no-untyped-call]
        return whole

    with torch.enable_grad():
        descent.step(loss)  # type: ignore[no-untyped-call]
    return heads.detach()
