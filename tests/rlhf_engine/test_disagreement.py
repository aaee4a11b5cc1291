"""Heads that disagree on a pair are told apart from heads that agree."""

from __future__ import annotations

import math

import torch

from rlhf_engine.disagreement import spread_of


def test_the_spread_is_the_deviation_of_the_heads_gains() -> None:
    # Three heads, two pairs. Gains of the first: 1, 1, 1; of the second: -1, 0, 1.
    scores = torch.tensor([[2.0, 1.0, 0.0, 1.0], [0.0, -1.0, 3.0, 3.0], [5.0, 4.0, 2.0, 1.0]])
    agreed, split = spread_of(scores)
    assert agreed == 0.0
    assert math.isclose(split, math.sqrt(2 / 3), rel_tol=1e-6)


def test_a_single_head_disagrees_with_nobody() -> None:
    assert spread_of(torch.tensor([[1.0, 3.0]])) == [0.0]
