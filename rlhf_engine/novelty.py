"""How far an answer lies from the answers that people voted on.

A reward model knows nothing of answers unlike those it learnt from, and heads over one
backbone may agree where all are wrong: what none of them has seen cannot divide them.
Novelty is the Mahalanobis distance of the state that the score is read in, from those of
voted answers, in units of what is usual. PPO takes off what lies beyond 1 (`novelty_penalty`
in the plan). The uncertainty of a linear head is such a distance (Zhang et al. 2024,
arXiv 2403.05171).

Legend: n voted answers, b answers, h hidden width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf_engine.files import replaced

USUAL_SHARE = 0.95
"""The share of unseen answers whose novelty is below 1."""

FOLDS = 5


class Novelty:
    """Measures states against those of voted answers.

    mean [h] and deviation [h] standardise a state; inverse [h, h] is the inverse covariance
    of standardised states; usual [] is the distance that counts as 1.
    """

    def __init__(self, mean: Tensor, deviation: Tensor, inverse: Tensor, usual: Tensor) -> None:
        self.mean, self.deviation, self.inverse, self.usual = mean, deviation, inverse, usual

    @classmethod
    def fitted(cls, states: Tensor, questions: Tensor) -> Novelty:
        """Fit to states [n, h] of answers to `questions` [n] (any numbers, equal where the
        question is). What distance is usual is said by answers to questions that a fit did not
        see: each fifth of them in turn, since few voted answers say little on any one fifth."""
        folds = torch.unique(questions, return_inverse=True)[1] % FOLDS
        apart = (
            [folds == fold for fold in torch.unique(folds)] if len(torch.unique(folds)) > 1 else []
        )
        distances = [cls._distances(states[~unseen]).of(states[unseen]) for unseen in apart]
        found = cls._distances(states)
        usual = torch.cat(distances or [found.of(states)]).quantile(USUAL_SHARE)
        found.usual = usual.clamp(min=1e-6)
        return found

    @classmethod
    def _distances(cls, states: Tensor) -> Novelty:
        """Distances from states [n, h] as they are, with no word yet on what is usual."""
        seen = states.double()
        mean, deviation = seen.mean(dim=0), seen.std(dim=0, correction=0).clamp(min=1e-6)
        standard = (seen - mean) / deviation
        covariance = shrunk(standard.T @ standard / len(seen), len(seen))
        inverse = torch.linalg.inv(covariance).contiguous()
        return cls(mean.float(), deviation.float(), inverse.float(), torch.tensor(1.0))

    def of(self, states: Tensor) -> Tensor:
        """Novelty [b] of states [b, h]: 0 for the mean answer, 1 at the edge of the usual."""
        standard = (states.float() - self.mean) / self.deviation
        squared = ((standard @ self.inverse) * standard).sum(dim=-1)
        return squared.clamp(min=0).sqrt() / self.usual

    def to(self, device: torch.device) -> Novelty:
        """The same on another device."""
        tensors = (self.mean, self.deviation, self.inverse, self.usual)
        return Novelty(*(each.to(device) for each in tensors))

    def save(self, path: Path) -> None:
        """Write it as safetensors, atomically."""
        tensors = {key: value.detach().contiguous() for key, value in vars(self).items()}
        with replaced(path) as temporary:
            save_file(tensors, str(temporary))

    @classmethod
    def load(cls, path: Path) -> Novelty:
        """Read what `save` wrote."""
        return cls(**load_file(str(path)))


def shrunk(covariance: Tensor, n: int) -> Tensor:
    """A covariance [h, h] of n states, drawn towards a multiple of the identity so that it can be
    inverted: the oracle approximating shrinkage of Chen et al. 2010 (arXiv 0907.4698, eq. 23)."""
    h = len(covariance)
    trace, squared = covariance.trace(), (covariance @ covariance).trace()
    above = (1 - 2 / h) * squared + trace**2
    below = (n + 1 - 2 / h) * (squared - trace**2 / h)
    share = above / below if above < below else torch.ones_like(trace)
    even = (trace / h).clamp(min=1e-6) * torch.eye(h, dtype=covariance.dtype)
    return (1 - share) * covariance + share * even
