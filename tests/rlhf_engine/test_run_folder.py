"""What a run folder keeps, and what it forgets, where a stage begins anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_engine.records import StageReport
from rlhf_engine.run_folder import RunFolder
from tests.rlhf_engine.runs import tiny_plan


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that wrote metrics in each stage, and a checkpoint."""
    made = RunFolder.create(tmp_path / "run", tiny_plan(tmp_path / "base"))
    made.append_metrics({"step": 1, "sft/loss": 2.0})
    made.append_metrics({"step": 1, "reward_model/loss": 0.7})
    made.append_metrics({"batch": 0, "objective/kl": 0.0})
    made.checkpoint_path("ppo").parent.mkdir()
    made.checkpoint_path("ppo").touch()
    return made


def keys(run: RunFolder) -> set[str]:
    return {key for row in run.metrics() for key in row} - {"time", "step"}


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_line_cut_by_a_kill_does_not_stay(run: RunFolder, stage: str) -> None:
    """Also where the stage wrote no whole line before, or goes on from a checkpoint."""
    before = keys(run) - {f"{stage}/loss"}
    with run.metrics_path.open("a", encoding="utf-8") as file:
        file.write('{"time": 17')
    run.forget_unless_kept(stage)
    lines = run.metrics_path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == run.metrics()
    assert keys(run) == before


@pytest.mark.parametrize(
    ("stage", "left"),
    [
        ("sft", {"reward_model/loss", "batch", "objective/kl"}),
        ("reward_model", {"sft/loss", "batch", "objective/kl"}),
        ("ppo", {"sft/loss", "reward_model/loss", "batch", "objective/kl"}),
        ("evaluation", {"sft/loss", "reward_model/loss", "batch", "objective/kl"}),
    ],
)
def test_a_stage_that_begins_anew_forgets_its_own_metrics(
    run: RunFolder, stage: str, left: set[str]
) -> None:
    run.forget_unless_kept(stage)
    assert keys(run) == left


def test_without_its_checkpoint_ppo_begins_anew_too(run: RunFolder) -> None:
    run.checkpoint_path("ppo").unlink()
    run.forget_unless_kept("ppo")
    assert keys(run) == {"sft/loss", "reward_model/loss"}


def test_a_stage_that_is_done_needs_no_checkpoint(run: RunFolder) -> None:
    run.mark_done(StageReport("ppo", 1.0))
    assert not run.checkpoint_path("ppo").exists()


def test_who_takes_up_a_run_removes_what_a_killed_process_left(run: RunFolder) -> None:
    left = [
        run.path / "ppo" / ".checkpoint.safetensors.a_b1c2d3",
        run.path / "ppo" / ".tmpAb3dE9",
        run.path / ".candidate.part-abcd1234" / "adapter_config.json",
    ]
    left[-1].parent.mkdir()
    for path in left:
        path.touch()
    with run.held():
        assert not any(path.exists() for path in left)
        assert not left[-1].parent.exists()
    assert run.checkpoint_path("ppo").exists()
    assert run.plan_path.exists()
    assert len(run.metrics()) == 3
