"""Best-of-n keeps each prompt's best answer and learns it, within PPO's budget of answers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from safetensors.torch import load_file

from rlhf_engine import best_of_n
from rlhf_engine.backbone import ADAPTER_WEIGHTS
from rlhf_engine.errors import Cancelled, PlanError
from rlhf_engine.pipeline import train
from rlhf_engine.plan import PpoPlan, SftPlan
from rlhf_engine.run_folder import RunFolder
from tests.rlhf_engine.runs import tiny_plan, tiny_run
from tests.tiny import tiny_base

STAGES = ("snapshot", "sft", "reward_model", "ppo")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A best-of-n run whose stages before ppo are done; the reward is the heads' score alone."""
    folder = tmp_path_factory.mktemp("best_of_n")
    ppo = PpoPlan(
        algorithm="best_of_n", rollout_batches=3, rollout_size=8, answers_per_prompt=4,
        minibatch_size=4, spread_penalty=0.0, novelty_penalty=0.0, missing_eos_penalty=0.0,
    )  # fmt: skip
    plan = replace(tiny_plan(tiny_base(folder / "base"), stages=STAGES), ppo=ppo)
    plan = replace(plan, sft=SftPlan(epochs=3, learning_rate=3e-3, batch_size=2))
    run = tiny_run(folder / "run", plan)
    train(run.path, until="reward_model")
    return run


def copied(prepared: RunFolder, folder: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(prepared.path, folder)))


def adapter(run: RunFolder, stage: str) -> dict[str, torch.Tensor]:
    return load_file(run.stage_path(stage) / "adapter" / ADAPTER_WEIGHTS)


def test_the_best_of_each_group_is_kept_and_learnt(prepared: RunFolder, tmp_path: Path) -> None:
    run = copied(prepared, tmp_path / "run")
    train(run.path)
    report = run.report("ppo")
    assert report is not None
    rows = [row for row in run.metrics() if "batch" in row]
    assert len(rows) == 3
    assert report.figures["best_of_n/kept"] == 6
    assert report.figures["steps"] == 9
    drawn = fmean(row["objective/score"] for row in rows)
    assert rows[-1]["best_of_n/score"] > drawn + 0.2
    for row in rows:
        assert row["best_of_n/score"] > row["objective/score"]
        assert abs(row["objective/kl"]) < 1e-4, "all answers are the SFT policy's own"
    before, after = adapter(run, "sft"), adapter(run, "ppo")
    assert max(float((after[name] - before[name]).abs().max()) for name in before) > 1e-4
    assert (run.candidate_path / ADAPTER_WEIGHTS).exists()


def test_the_kept_answers_become_likelier(
    prepared: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(prepared, tmp_path / "run")
    losses: list[float] = []
    step = best_of_n.BestOfN._step

    def watched(self: best_of_n.BestOfN, chosen: list[int]) -> float:
        losses.append(step(self, chosen))
        return losses[-1]

    monkeypatch.setattr(best_of_n.BestOfN, "_step", watched)
    train(run.path)
    assert sum(losses[-3:]) < sum(losses[:3])


def test_a_run_stopped_while_it_draws_ends_alike(prepared: RunFolder, tmp_path: Path) -> None:
    whole, cut = copied(prepared, tmp_path / "whole"), copied(prepared, tmp_path / "cut")
    train(whole.path)

    def stop(progress: object) -> None:
        if (cut.stage_path("ppo") / "checkpoint.safetensors").exists():
            cut.request_cancel()

    with pytest.raises(Cancelled):
        train(cut.path, on_progress=stop)
    assert 1 <= len([row for row in cut.metrics() if "batch" in row]) <= 3
    cut.clear_cancel()
    train(cut.path)
    ours, theirs = adapter(whole, "ppo"), adapter(cut, "ppo")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [row["batch"] for row in cut.metrics() if "batch" in row] == [0, 1, 2]


def test_best_places() -> None:
    rewards = {0: 1.0, 1: 3.0, 2: 3.0, 3: 2.0, 4: 2.0, 5: 2.0, 6: -1.0, 7: -2.0, 8: -3.0}
    assert best_of_n.best_places(rewards, 3) == [1, 6]
    assert best_of_n.best_places({0: 1.0, 1: 0.0}, 1) == [0, 1]


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    shares = [best_of_n.share(step, 10) for step in range(11)]
    assert shares[:3] == [0.0, 0.5, 1.0]
    assert shares[6] == pytest.approx(0.5)
    assert shares[10] == pytest.approx(0.0)


def test_one_answer_a_prompt_has_no_best() -> None:
    with pytest.raises(PlanError, match="best_of_n needs at least 2"):
        replace(tiny_plan(Path("base")), ppo=PpoPlan(algorithm="best_of_n", answers_per_prompt=1))
