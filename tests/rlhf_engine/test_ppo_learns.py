"""PPO and RLOO learn: from a random policy to nearly the best reward there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.benchmarks.ppo_learns_tiny import climb_known_reward, reachable


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_a_known_reward_is_climbed_to_nine_tenths(tmp_path: Path, algorithm: str) -> None:
    outcome = climb_known_reward(tmp_path, algorithm, seed=0)
    assert outcome.start < 0.2
    assert outcome.reachable > 0.99
    assert outcome.share >= 0.9, outcome


def test_what_is_reachable_is_bounded_by_the_head() -> None:
    """Two tokens in opposite directions of width 1: a state of length 1 gives the chosen one
    e / (e + 1/e)."""
    head = torch.tensor([[1.0], [-1.0]])
    assert reachable(head, torch.tensor([True, False])) == pytest.approx(0.880797, abs=1e-5)
