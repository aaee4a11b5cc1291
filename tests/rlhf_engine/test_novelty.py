"""Novelty tells answers like those people voted on from others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf_engine.novelty import Novelty, shrunk


def states(n: int, seed: int = 0) -> torch.Tensor:
    """Correlated states [n, 8] whose last direction hardly varies."""
    drawn = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, 8, generator=drawn) @ torch.triu(torch.ones(8, 8))
    mixed[:, -1] *= 0.01
    return mixed + 5


def test_one_in_twenty_unseen_answers_of_the_same_kind_lies_beyond_1() -> None:
    novelty = Novelty.fitted(states(2000), torch.arange(2000) // 2)
    assert float((novelty.of(states(4000, seed=1)) > 1).float().mean()) == pytest.approx(
        0.05, abs=0.02
    )


def test_a_state_off_the_usual_directions_is_novel_though_it_is_near() -> None:
    seen = states(500)
    novelty = Novelty.fitted(seen, torch.arange(500))
    usual = seen.mean(dim=0)
    along, across = usual.clone(), usual.clone()
    along[:-1] += 1
    across[-1] += 1
    assert float(novelty.of(usual.unsqueeze(0))) < 0.2
    assert float(novelty.of(along.unsqueeze(0))) < 1
    assert float(novelty.of(across.unsqueeze(0))) > 5


def test_fewer_answers_than_directions_still_give_a_measure() -> None:
    wide = torch.randn(6, 64, generator=torch.Generator().manual_seed(3))
    novelty = Novelty.fitted(wide, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert torch.isfinite(novelty.of(wide)).all()
    assert float(novelty.of(wide[:1] * 10)) > 2


def test_few_questions_say_what_is_usual_by_all_of_their_answers() -> None:
    """With 20 answers to 10 questions, at most one in five of the same kind counts as novel."""
    shares = []
    for seed in range(20):
        novelty = Novelty.fitted(states(20, seed), torch.arange(20) // 2)
        shares.append(float((novelty.of(states(2000, seed=100 + seed)) > 1).float().mean()))
    assert sum(shares) / len(shares) < 0.2


def test_one_question_or_equal_states_do_not_break_it() -> None:
    alone = Novelty.fitted(states(4), torch.zeros(4))
    assert torch.isfinite(alone.of(states(4))).all()
    equal = Novelty.fitted(torch.ones(10, 3), torch.arange(10))
    assert float(equal.of(torch.ones(1, 3))) == 0
    assert float(equal.of(torch.full((1, 3), 2.0))) > 1


def test_what_is_saved_measures_alike(tmp_path: Path) -> None:
    novelty = Novelty.fitted(states(50), torch.arange(50))
    novelty.save(tmp_path / "novelty.safetensors")
    again = Novelty.load(tmp_path / "novelty.safetensors")
    assert torch.equal(again.of(states(9, seed=2)), novelty.of(states(9, seed=2)))


def test_shrinkage_by_hand() -> None:
    # h = 2, trace 4, squared trace 10: above = 0 * 10 + 16, below = (5 + 1 - 1)(10 - 8) = 10
    covariance = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert torch.equal(shrunk(covariance, 5), 2 * torch.eye(2))
    # 100 answers: below = 200, share 0.08
    expected = torch.tensor([[0.92 * 3 + 0.16, 0.0], [0.0, 0.92 + 0.16]])
    torch.testing.assert_close(shrunk(covariance, 100), expected)
