"""The reward model's stage alone, on a tiny base policy: seconds a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rlhf_engine.backbone import Backbone
from rlhf_engine.records import Comparison, StageReport, Thumb
from rlhf_engine.reward_stage import run_reward_model
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.snapshot import Snapshot
from rlhf_engine.stage import Stage
from tests.rlhf_engine.runs import tiny_plan


def reward_stage(folder: Path, base: Path, **changes: object) -> Stage:
    """A run folder with a fresh SFT adapter, ready for the reward model's stage.

    `changes` are fields of the RewardPlan.
    """
    plan = tiny_plan(base)
    plan = replace(plan, reward_model=replace(plan.reward_model, **changes))  # type: ignore[arg-type]
    run = RunFolder.create(folder, plan)
    backbone = Backbone.load(base)
    torch.manual_seed(0)
    backbone.new_adapter("sft", plan.lora)
    backbone.save_adapter("sft", run.stage_path("sft") / "adapter")
    stage = Stage("reward_model", run, plan, "float32")
    stage.path.mkdir(parents=True)
    return stage


def of_votes(comparisons: Sequence[Comparison], thumbs: Sequence[Thumb] = ()) -> Snapshot:
    """A snapshot of votes alone, never written to disk."""
    return Snapshot(Path(), "", "", (), tuple(comparisons), (), tuple(thumbs))


def learn(
    stage: Stage, comparisons: Sequence[Comparison], thumbs: Sequence[Thumb] = ()
) -> StageReport:
    """Run the stage on these votes."""
    return run_reward_model(stage, of_votes(comparisons, thumbs))
