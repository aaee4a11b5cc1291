"""Tokens are drawn as their probabilities say."""

from __future__ import annotations

import torch

from rlhf_engine.sampling import inverted


def test_drawing_by_blocks_follows_the_distribution() -> None:
    """Against a plain running sum, over a vocabulary that no block divides."""
    generator = torch.Generator().manual_seed(5)
    probabilities = torch.rand(4, 1000, generator=generator) ** 8
    probabilities[:, 300:700] = 0
    probabilities[1, 900:] = 0
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    cumulative = probabilities.double().cumsum(dim=1)
    for at in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1 - 1e-12):
        uniform = torch.full((4, 1), at, dtype=torch.float64)
        plain = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        drawn = inverted(probabilities, uniform)
        assert torch.equal(drawn, plain.clamp(max=999))
        assert (probabilities.gather(1, drawn) > 0).all()
