"""overoptimisation's world, verdict and picture, tried at a small size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf_engine.backbone import group_answers
from tests.benchmarks import overoptimisation
from tests.benchmarks.overoptimisation_arms import ARMS, DEFENDED, HEAD_SCALE, PPO, Curve, Point
from tests.benchmarks.overoptimisation_world import Gold, Votes, repeated_share
from tests.benchmarks.ppo_learns_tiny import begin_ppo, fresh_answers, tiny_ppo_plan
from tests.tiny import tiny_base


def curve(arm: str, golds: list[float]) -> Curve:
    points = [Point(at, at * 2.0, at * 1.0, (gold, gold)) for at, gold in enumerate(golds)]
    return Curve(arm, 0, points, stopped=False)


def test_the_command_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "picture.png"
    size = ["--seeds", "1", "--batches", "1", "--every", "1", "--answers", "1", "--votes", "32"]
    overoptimisation.main([*size, "--picture", str(picture)])
    printed = capsys.readouterr().out
    assert all(arm.name in printed for arm in ARMS)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_repeats_cost_gold() -> None:
    groups = group_answers([[1]], [[5, 6, 7, 8], [5, 5, 5, 5], [5, 6, 5, 6], []], 0)
    assert repeated_share(groups).tolist() == [0.0, 0.75, 0.5, 1.0]
    gold = Gold(torch.ones(10)).rewards(groups)
    assert gold[:3].tolist() == [1.0, 1 - 4 * 0.75**2, 1 - 4 * 0.5**2]


def test_the_proxy_learns_from_noisy_votes(tmp_path: Path) -> None:
    plan = tiny_ppo_plan(tiny_base(tmp_path / "base"), PPO, seed=0)
    _, backbone = begin_ppo(tmp_path / "run", plan, HEAD_SCALE)
    gold = Gold.drawn(backbone, 0)
    votes = Votes.cast(backbone, plan, gold, 480)
    proxy = votes.proxy(backbone, 3, 0)
    unseen = fresh_answers(backbone, plan, 20, seed=7)
    scores, rewards = proxy.judge(unseen).scores.mean(dim=0), gold.rewards(unseen)
    right = (scores[1::2] > scores[::2]) == (rewards[1::2] > rewards[::2])
    assert 0.6 < float(right.float().mean()) < 0.95
    seen = proxy.judge(votes.groups).scores
    torch.testing.assert_close(seen.std(dim=1), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen.mean(dim=1), torch.zeros(3), atol=1e-3, rtol=0)


def test_the_error_of_a_measurement_is_no_peak() -> None:
    """Each half errs upwards once, on a policy that stays where it is."""
    halves = [(0.0, 0.0), (1.3, 1.0), (1.0, 1.2), (1.0, 1.0)]
    points = [Point(at, 0.0, 0.0, each) for at, each in enumerate(halves)]
    found = Curve(DEFENDED, 0, points, stopped=False)
    assert found.peak == 1.0
    assert found.gain == 1.0
    assert found.fall == 0.0


@pytest.mark.parametrize(
    ("golds", "met"),
    [
        ([0.0, 0.5, 1.0], True),
        ([0.0, 1.0, 0.99], True),
        ([0.0, 1.0, 0.97], False),
        ([0.0, -0.1, -0.2], False),
    ],
)
def test_the_verdict_is_on_the_defended_arm(golds: list[float], met: bool) -> None:
    curves = [curve(arm.name, [0.0, 1.0, -3.0]) for arm in ARMS if arm.name != DEFENDED]
    assert overoptimisation.print_verdict([*curves, curve(DEFENDED, golds)]) is met
