"""The critic: a linear head over the reward model's hidden states.

It starts as the best linear forecast of an answer's final score from what stands before
each token, fitted on answers that people voted on, whichever policies gave them: PPO begins
with the value function of answers like those.

Legend: n tokens of all answers, b batch, t answer tokens, h hidden width.
"""

from __future__ import annotations

from pathlib import Path

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
        folds = questions % FOLDS
        best = min(RIDGES, key=lambda ridge: _error(standard, targets, folds, ridge))
        weight, bias = _ridge(standard, targets, best)
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


def _ridge(states: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Least squares of centred targets with a squared penalty on the weights."""
    bias = targets.mean()
    gram = states.T @ states + ridge * torch.eye(states.shape[1])
    return torch.linalg.solve(gram, states.T @ (targets - bias)), bias


def _error(states: Tensor, targets: Tensor, folds: Tensor, ridge: float) -> float:
    """Squared error over the tokens of each fold, of a fit without it; where all questions are
    in one fold, the largest penalty is chosen."""
    present = sorted(set(folds.tolist()))
    if len(present) < 2:
        return -ridge
    squares = torch.zeros(())
    for fold in present:
        unseen = folds == fold
        weight, bias = _ridge(states[~unseen], targets[~unseen], ridge)
        squares += ((states[unseen] @ weight + bias - targets[unseen]) ** 2).sum()
    return float(squares)
