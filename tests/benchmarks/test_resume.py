"""The benchmark of kills at its smallest, and its comparison sees what it must."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_engine.run_folder import RunFolder
from tests.benchmarks.resume_compare import contents, differences

ROOT = Path(__file__).parents[2]


def test_a_run_killed_a_few_times_ends_as_one_never_killed() -> None:
    """In a process of its own: this one has started threads, and cannot be forked."""
    command = [sys.executable, "-m", "tests.benchmarks.resume", "--kills", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    total = next(line for line in done.stdout.splitlines() if line.startswith("all"))
    assert total.split()[-2:] == ["5", "5"]


def doubled_batch(run: RunFolder) -> None:
    run.append_metrics({"batch": 0, "objective/kl": 0.0, "time/rollout": 3.0})


def other_time(run: RunFolder) -> None:
    run.metrics_path.write_text(run.metrics_path.read_text().replace('"time": 1', '"time": 2'))


def leftover(run: RunFolder) -> None:
    (run.path / "ppo" / ".checkpoint.safetensors.abcdefgh").touch()


def changed_byte(run: RunFolder) -> None:
    (run.path / "candidate").write_bytes(b"weighty")


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (doubled_batch, ["metrics.jsonl"]),
        (other_time, []),
        (leftover, ["ppo/.checkpoint.safetensors.abcdefgh"]),
        (changed_byte, ["candidate"]),
    ],
)
def test_the_comparison_sees_all_but_times(
    tmp_path: Path, change: Callable[[RunFolder], None], differs: list[str]
) -> None:
    runs = [RunFolder(tmp_path / name) for name in ("one", "other")]
    for run in runs:
        (run.path / "ppo").mkdir(parents=True)
        (run.path / "candidate").write_bytes(b"weights")
        run.append_metrics({"batch": 0, "objective/kl": 0.0, "time/rollout": 1.0})
    change(runs[1])
    assert differences(*map(contents, runs)) == differs
