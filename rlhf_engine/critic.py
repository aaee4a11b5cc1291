"""The critic: a linear head over the reward model's hidden states.

It starts as the best linear forecast of an answer's final score from what stands before
each token, fitted on answers that people voted on, whichever policies gave them: PPO begins
with the value function of answers like those.

Legend: n tokens of all answers, b batch, t answer tokens, h hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_engine.files import replaced

RIDGES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
"""Penalties tried; the one that forecasts unseen answers best is kept."""

FOLDS = 5


class Critic(nn.Module):
    """Values of standardised states; `weight` and `bias` learn, the standardisation stays."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, states: Tensor) -> Tensor:
        """States [..., h] to values [...], on the scale of normalised scores."""
        standard = (states - self.mean) / self.deviation
        values: Tensor = standard @ self.weight + self.bias
        return values

    @classmethod
    def fitted(cls, states: Tensor, targets: Tensor, questions: Tensor) -> Critic:
        """Fit by ridge regression: states [n, h], each token's target [n], its question's number
        [n]. The penalty is chosen by cross-validation over questions: the states of two answers
        to one question are nearly alike, so that left-out answers to known questions would choose
        a penalty with which nothing is known of other questions."""
        mean, deviation = states.mean(dim=0), states.std(dim=0).clamp(min=1e-6)
        standard = (states - mean) / deviation
        numbers = questions % FOLDS
        folds = [numbers == fold for fold in sorted(set(numbers.tolist()))]
        whole = _Sums.of(standard, targets)
        best = _best_ridge(whole, [(standard[fold], targets[fold]) for fold in folds])
        weight, bias = whole.solved(best)
        return cls(mean, deviation, weight, bias)

    def save(self, path: Path) -> None:
        """Write it as safetensors, atomically."""
        tensors = {key: value.detach().contiguous() for key, value in self.state_dict().items()}
        with replaced(path) as temporary:
            save_file(tensors, str(temporary))

    @classmethod
    def load(cls, path: Path) -> Critic:
        """Read what `save` wrote."""
        return cls(**load_file(str(path)))


class _Sums(NamedTuple):
    """What least squares needs to know of states [n, h] and targets [n]: sums over the tokens, so
    that a fold is taken out of the whole without reading the rest again."""

    products: Tensor
    with_targets: Tensor
    states: Tensor
    targets: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, states: Tensor, targets: Tensor) -> _Sums:
        return cls(
            states.T @ states,
            states.T @ targets,
            states.sum(dim=0),
            targets.sum(),
            torch.tensor(float(len(targets))),
        )

    def without(self, other: _Sums) -> _Sums:
        return _Sums(*(all_ - own for all_, own in zip(self, other, strict=True)))

    def solved(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Least squares of centred targets with a squared penalty on the weights."""
        bias = self.targets / self.tokens.clamp(min=1)
        penalised = self.products + ridge * torch.eye(len(self.states))
        return torch.linalg.solve(penalised, self.with_targets - bias * self.states), bias


def _best_ridge(whole: _Sums, folds: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The penalty whose fits without a fold's states and targets forecast them best; the largest
    one where there is one fold alone."""
    if len(folds) < 2:
        return max(RIDGES)
    rests = [whole.without(_Sums.of(*fold)) for fold in folds]

    def error(ridge: float) -> float:
        squares = torch.zeros(())
        for rest, (states, targets) in zip(rests, folds, strict=True):
            weight, bias = rest.solved(ridge)
            squares += ((states @ weight + bias - targets) ** 2).sum()
        return float(squares)

    return min(RIDGES, key=error)
