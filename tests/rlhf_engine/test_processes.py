"""Two processes that share each rollout batch learn what one would from the same batch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf_engine.files import write_json
from rlhf_engine.pipeline import train
from rlhf_engine.plan import PpoPlan
from rlhf_engine.records import to_json
from rlhf_engine.run_folder import RunFolder
from tests.rlhf_engine.runs import tiny_plan, tiny_run
from tests.tiny import tiny_base

PPO = PpoPlan(
    rollout_batches=2,
    rollout_size=8,
    answers_per_prompt=2,
    minibatch_size=4,
    epochs=2,
    learning_rate=1e-3,
    early_stop_kl=0.005,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose stages before ppo are done."""
    folder = tmp_path_factory.mktemp("processes")
    stages = ("snapshot", "sft", "reward_model", "ppo")
    plan = replace(tiny_plan(tiny_base(folder / "base"), stages=stages), ppo=PPO)
    run = tiny_run(folder / "run", plan)
    train(run.path, until="reward_model")
    return run


def launch(run: Path, count: int) -> subprocess.Popen[str]:
    """The engine under `accelerate launch` with so many processes on the CPU."""
    # --multi_gpu is accelerate's name for torch's launcher; without a GPU the group is gloo.
    options = ["--multi_gpu", "--num_processes", str(count), "--num_machines", "1"]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    return subprocess.Popen(
        [*command, "--module", "rlhf_engine", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def ended(launcher: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr of a launcher that ends within five minutes."""
    try:
        _, stderr = launcher.communicate(timeout=280)
    except subprocess.TimeoutExpired:
        launcher.kill()
        raise
    return launcher.returncode, stderr


def adapter(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.stage_path("ppo") / "adapter" / "adapter_model.safetensors")


def test_two_processes_learn_what_one_learns(prepared: RunFolder, tmp_path: Path) -> None:
    shared = RunFolder(Path(shutil.copytree(prepared.path, tmp_path / "shared")))
    alone = RunFolder(Path(shutil.copytree(prepared.path, tmp_path / "alone")))
    code, stderr = ended(launch(shared.path, 2))
    assert code == 0, stderr
    train(alone.path)
    moved = 0.0
    start = load_file(alone.stage_path("sft") / "adapter" / "adapter_model.safetensors")
    ours, theirs = adapter(alone), adapter(shared)
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, atol=2e-5, rtol=1e-3)
        moved = max(moved, float((value - start[name]).abs().max()))
    assert moved > 1e-3
    by_one = [row for row in alone.metrics() if "batch" in row]
    by_two = [row for row in shared.metrics() if "batch" in row]
    assert len(by_one) == len(by_two) == 2
    steps = [row["policy/steps"] for row in by_one]
    assert [row["policy/steps"] for row in by_two] == steps
    assert min(steps) < 2 * 2, "no batch was to be left early"
    for key in ("objective/kl", "objective/score", "length/mean", "policy/ratio", "loss/policy"):
        for one, two in zip(by_one, by_two, strict=True):
            assert two[key] == pytest.approx(one[key], abs=1e-4), key


def test_stages_before_ppo_are_asked_for_first(prepared: RunFolder, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", prepared.plan())
    code, stderr = ended(launch(run.path, 2))
    assert code != 0
    assert "--until reward_model" in stderr


def test_two_processes_asked_to_stop_end_together_and_go_on(
    prepared: RunFolder, tmp_path: Path
) -> None:
    longer = replace(prepared.plan(), ppo=replace(PPO, rollout_batches=200, early_stop_kl=1.0))
    run = RunFolder(Path(shutil.copytree(prepared.path, tmp_path / "run")))
    write_json(run.plan_path, to_json(longer))
    launcher = launch(run.path, 2)
    began = time.monotonic()
    while not any("batch" in row for row in run.metrics()):
        assert launcher.poll() is None, ended(launcher)[1]
        assert time.monotonic() - began < 240, "no batch within four minutes"
        time.sleep(0.05)
    run.request_cancel()
    _, stderr = ended(launcher)
    # One of them alone would leave the other to a broken connection.
    assert stderr.count(f"run {run.path.name} was asked to stop") == 2, stderr
    kept = len([row for row in run.metrics() if "batch" in row])
    assert 1 <= kept < 200
    shorter = replace(longer, ppo=replace(longer.ppo, rollout_batches=kept + 1))
    write_json(run.plan_path, to_json(shorter))
    run.clear_cancel()
    train(run.path)
    assert len([row for row in run.metrics() if "batch" in row]) == kept + 1
