"""A whole run on a tiny base policy: stages, resume, bad input, signals."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from rlhf_engine.errors import Cancelled, PlanError, RunFolderError, SignalError, SnapshotError
from rlhf_engine.files import sha256_of
from rlhf_engine.pipeline import train
from rlhf_engine.plan import PpoPlan, SftPlan, SignalPlan
from rlhf_engine.records import Demonstration, SignalInput, Thumb
from rlhf_engine.run_folder import Progress, RunFolder
from rlhf_engine.signals import Known
from rlhf_engine.snapshot import Snapshot, freeze
from rlhf_engine.statistics import win_interval
from tests.rlhf_engine.runs import comparisons, demonstrations, tiny_plan, tiny_run
from tests.tiny import tiny_base

METRIC_KEYS = {
    "objective/kl",
    "objective/score",
    "objective/rlhf_reward",
    "policy/entropy",
    "policy/clipfrac",
    "policy/approx_kl",
    "policy/ratio",
    "value/explained_variance",
    "value/clipfrac",
    "length/mean",
    "time/rollout",
    "time/score",
    "time/update",
    "tokens_per_s",
}


@dataclass(frozen=True)
class Fixed:
    """A reward signal that reads the same for every answer."""

    reading: float | None
    name: str = "fixed"
    weight: float = 0.5

    def read_batch(self, batch: Sequence[SignalInput]) -> list[float | None]:
        return [self.reading for _ in batch]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = tiny_run(tmp_path_factory.mktemp("run"), tiny_plan(base))
    verdict = train(run.path)
    assert verdict is not None
    return run


def adapter_hash(run: RunFolder) -> str:
    return sha256_of(run.candidate_path / "adapter_model.safetensors")


def test_a_run_leaves_reports_metrics_candidate_and_picture(finished: RunFolder) -> None:
    assert all(finished.report(stage) for stage in finished.plan().stages)
    ppo_rows = [row for row in finished.metrics() if "objective/kl" in row]
    assert len(ppo_rows) == 3
    assert set(ppo_rows[0]) >= METRIC_KEYS
    assert ppo_rows[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert finished.candidate_path.joinpath("adapter_config.json").exists()
    assert (finished.path / "plot.png").read_bytes().startswith(b"\x89PNG")
    gate = finished.gate_report()
    assert gate is not None
    assert (gate.passed, gate.figures["questions"]) == (False, 4)
    assert "compared on 4 held-out questions, and a verdict needs at least 6" in gate.sentence
    rate = gate.figures["win_rate"]
    counts = [(wins, ties) for wins in range(5) for ties in range(5 - wins)]
    assert rate in [asdict(win_interval(wins, ties, 4 - wins - ties)) for wins, ties in counts]


def test_a_run_leaves_the_environment_as_it_was(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    before = dict(os.environ)
    train(finished.path)
    assert dict(os.environ) == before


def test_no_file_of_a_run_can_hold_code(finished: RunFolder) -> None:
    kinds = {path.suffix for path in finished.path.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".jsonl", ".safetensors", ".png", ".lock", ""}


def test_the_policy_moves_and_the_reference_stays(finished: RunFolder) -> None:
    sft = finished.stage_path("sft") / "adapter" / "adapter_model.safetensors"
    assert adapter_hash(finished) != sha256_of(sft)
    report = finished.report("ppo")
    assert report is not None
    assert report.figures["skipped_steps"] == 0


def test_the_same_seed_gives_the_same_bytes(
    base: Path, finished: RunFolder, tmp_path: Path
) -> None:
    again = tiny_run(tmp_path / "again", finished.plan())
    train(again.path)
    assert adapter_hash(again) == adapter_hash(finished)


class StopAt:
    """Asks the run to stop once a stage has reached a step."""

    def __init__(self, run: RunFolder, stage: str, step: int) -> None:
        self.run, self.stage, self.step = run, stage, step

    def __call__(self, progress: Progress) -> None:
        if progress.stage == self.stage and progress.step >= self.step:
            self.run.request_cancel()


@pytest.mark.parametrize("stage", ["sft", "reward_model", "ppo", "evaluation"])
def test_a_cancelled_run_resumes_to_the_same_bytes(
    finished: RunFolder, tmp_path: Path, stage: str
) -> None:
    run = tiny_run(tmp_path / "run", finished.plan())
    with pytest.raises(Cancelled):
        train(run.path, on_progress=StopAt(run, stage, 0))
    assert run.report(stage) is None
    run.clear_cancel()
    train(run.path)
    assert adapter_hash(run) == adapter_hash(finished)


def test_ppo_killed_between_batches_resumes_to_the_same_bytes(
    finished: RunFolder, tmp_path: Path
) -> None:
    """A separate process is killed (SIGKILL) after its first rollout batch was kept."""
    run = tiny_run(tmp_path / "run", finished.plan())
    script = (
        "import os, sys, signal\n"
        "from pathlib import Path\n"
        "import rlhf_engine.ppo as ppo\n"
        "from rlhf_engine.pipeline import train\n"
        "save = ppo.save_checkpoint\n"
        "def save_and_die(*arguments):\n"
        "    save(*arguments)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "ppo.save_checkpoint = save_and_die\n"
        "train(Path(sys.argv[1]))\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(run.path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr.decode()
    assert (run.stage_path("ppo") / "checkpoint.safetensors").exists()
    train(run.path)
    assert adapter_hash(run) == adapter_hash(finished)
    assert [row["batch"] for row in run.metrics() if "batch" in row] == [0, 1, 2]


def test_a_second_worker_is_refused(finished: RunFolder) -> None:
    with finished.held(), pytest.raises(RunFolderError, match="another worker"):
        train(finished.path)


def test_a_changed_snapshot_is_refused(base: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", tiny_plan(base))
    rows = run.stage_path("snapshot") / "demonstrations.jsonl"
    rows.write_text(rows.read_text().replace("Boston", "Moscow"))
    with pytest.raises(SnapshotError, match="changed after freezing"):
        train(run.path)


def test_a_question_on_both_sides_is_refused(tmp_path: Path) -> None:
    gold = demonstrations()
    leak = replace(
        gold[0].prompt, id="leak", split="held_out", question="WHERE is the reception, in Boston"
    )
    with pytest.raises(SnapshotError, match="also held out"):
        freeze(tmp_path, gold, [replace(comparisons()[0], prompt=leak)], [])


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no gold answer"):
        freeze(tmp_path, [], [], [])


def test_too_few_comparisons_are_said(base: Path, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", tiny_plan(base))
    prompts = [item.prompt for item in demonstrations() if item.prompt.split == "train"]
    freeze(run.stage_path("snapshot"), demonstrations(), comparisons()[:3], prompts)
    with pytest.raises(SnapshotError, match="too few for a reward model"):
        train(run.path)


def test_signals_enter_the_metrics_and_the_reward(base: Path, tmp_path: Path) -> None:
    plan = tiny_plan(base, signals=(SignalPlan("fixed", 0.5),))
    run = tiny_run(tmp_path / "run", plan)
    train(run.path, signals=[Fixed(-1.0)])
    rows = [row for row in run.metrics() if "reward/fixed" in row]
    assert [row["reward/fixed"] for row in rows] == [-1.0] * 3
    for row in rows:
        assert row["objective/rlhf_reward"] <= row["objective/score"] - 0.5 + 1e-5


def test_what_signals_read_of_both_policies_stands_in_the_evaluation(
    base: Path, tmp_path: Path
) -> None:
    answers: list[str | None] = []

    class Odd(Fixed):
        def read_batch(self, batch: Sequence[SignalInput]) -> list[float | None]:
            answers.extend(item.gold for item in batch)
            return [0.5 if at % 2 else None for at, _ in enumerate(batch)]

    plan = tiny_plan(base, signals=(SignalPlan("fixed", 0.5), SignalPlan("silent", 0.5)))
    run = tiny_run(tmp_path / "run", plan)
    train(run.path, signals=[Odd(None), Fixed(None, "silent")])
    report = run.report("evaluation")
    assert report is not None
    count = report.figures["questions"]
    assert answers[-1] is not None
    read = {"mean": 0.5, "read": count // 2, "abstained": count - count // 2}
    silent = {"mean": None, "read": 0, "abstained": count}
    assert report.figures["signals"] == {
        "fixed": {"live": read, "candidate": read},
        "silent": {"live": silent, "candidate": silent},
    }


def test_signals_know_what_people_said_of_the_training_side() -> None:
    shown, kept_out = (item.prompt for item in demonstrations()[:2])
    shown, kept_out = replace(shown, split="train"), replace(kept_out, split="held_out")
    thumbs = (
        Thumb(shown, "Behind the  house. ", up=True),
        Thumb(shown, "Behind the house.", up=False),
        Thumb(shown, "Behind the house.", up=True),
        Thumb(shown, "On a mountain.", up=False),
        Thumb(kept_out, "Behind the house.", up=True),
    )
    gold = (Demonstration(shown, "Gold."), Demonstration(kept_out, "No."))
    snapshot = Snapshot(Path(), "", "", gold, (), (), thumbs)
    known = Known.of(snapshot)
    loud = replace(shown, question=shown.question.upper())
    assert known.about(loud, "Behind the house.").thumbs == (1, -1, 1)
    assert known.about(shown, "On a mountain.").thumbs == (-1,)
    assert known.about(shown, "Elsewhere.").thumbs == ()
    assert known.about(shown, "Elsewhere.").gold == "Gold."
    hidden = known.about(kept_out, "Behind the house.")
    assert (hidden.gold, hidden.thumbs) == (None, ())


@pytest.mark.parametrize("reading", [float("nan"), float("inf"), 1.5])
def test_a_signal_out_of_contract_is_named(base: Path, tmp_path: Path, reading: float) -> None:
    run = tiny_run(tmp_path / "run", tiny_plan(base, signals=(SignalPlan("fixed", 0.5),)))
    with pytest.raises(SignalError, match="reward signal fixed"):
        train(run.path, signals=[Fixed(reading)])


def test_a_signal_that_is_not_loaded_is_named(base: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", tiny_plan(base, signals=(SignalPlan("absent"),)))
    with pytest.raises(PlanError, match="absent"):
        train(run.path)


def test_one_prompt_and_a_larger_batch_end(base: Path, tmp_path: Path) -> None:
    ppo = PpoPlan(rollout_batches=2, rollout_size=6, answers_per_prompt=2, minibatch_size=4)
    plan = tiny_plan(base, ppo=ppo)
    run = RunFolder.create(tmp_path / "run", plan)
    prompt = demonstrations()[0].prompt
    freeze(run.stage_path("snapshot"), demonstrations(), comparisons(), [prompt])
    assert train(run.path) is not None


def test_ppo_stops_at_the_kl_limit(base: Path, tmp_path: Path) -> None:
    wild = PpoPlan(
        rollout_batches=6,
        rollout_size=6,
        answers_per_prompt=3,
        minibatch_size=3,
        learning_rate=0.3,
        max_kl=1,
    )
    run = tiny_run(tmp_path / "run", tiny_plan(base, ppo=wild))
    train(run.path)
    report = run.report("ppo")
    assert report is not None
    assert report.figures["stopped_by_kl"] is True
    assert report.figures["batches"] < 6


def test_sft_is_taken_over_where_the_plan_says_so(finished: RunFolder, tmp_path: Path) -> None:
    source = finished.stage_path("sft") / "adapter"
    plan = replace(finished.plan(), sft=SftPlan(reuse=str(source)))
    run = tiny_run(tmp_path / "run", plan)
    train(run.path)
    report = run.report("sft")
    assert report is not None
    assert report.figures["reused"] is True
    weights = "adapter/adapter_model.safetensors"
    assert sha256_of(run.stage_path("sft") / weights) == sha256_of(
        finished.stage_path("sft") / weights
    )


def test_a_stage_without_its_marker_runs_again(finished: RunFolder, tmp_path: Path) -> None:
    run = tiny_run(
        tmp_path / "run", replace(finished.plan(), stages=("snapshot", "sft", "evaluation"))
    )
    train(run.path)
    before = (run.stage_path("sft") / "done.json").stat().st_mtime_ns
    (run.stage_path("evaluation") / "done.json").unlink()
    train(run.path)
    assert run.report("evaluation") is not None
    assert (run.stage_path("sft") / "done.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("stage", ["snapshot", "sft", "reward_model", "ppo", "evaluation"])
def test_a_resumed_stage_reports_the_time_of_all_its_tries(
    finished: RunFolder, tmp_path: Path, stage: str
) -> None:
    run = RunFolder(Path(shutil.copytree(finished.path, tmp_path / "run")))
    (run.stage_path(stage) / "done.json").unlink()
    run.write_progress(Progress(stage, 1, 2, "killed", spent_s=1000.0))
    train(run.path)
    reports = [run.report(name) for name in run.plan().stages]
    seconds = {report.stage: report.seconds for report in reports if report}
    assert 1000 <= seconds.pop(stage) < 1300
    assert max(seconds.values()) < 300


def test_the_engine_runs_alone(base: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", tiny_plan(base, stages=("snapshot", "sft", "evaluation")))
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_engine", str(run.path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 4), done.stderr
    gate = json.loads((run.path / "gate.json").read_text())
    assert gate["sentence"] in done.stdout
    assert "learning the gold answers" in done.stderr


def test_on_a_terminal_progress_is_one_line_that_changes(base: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", tiny_plan(base, stages=("snapshot", "sft")))
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "rlhf_engine", str(run.path)],
        cwd=Path(__file__).parents[2],
        stderr=theirs,
    )
    os.close(theirs)
    shown = ""
    # A closed terminal is an error to read, on Linux.
    with suppress(OSError):
        while read := os.read(ours, 4096):
            shown += read.decode()
    os.close(ours)
    assert done.wait() == 0, shown
    assert "\r\x1b[Ksft: learning the gold answers" in shown
    assert shown.endswith("\n")


def test_a_missing_run_is_one_line_not_a_trace(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_engine", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_evaluation_side_falls_back_to_held_out_questions(tmp_path: Path) -> None:
    gold = [
        replace(item, prompt=replace(item.prompt, split="held_out"))
        if item.prompt.split == "exam"
        else item
        for item in demonstrations()
    ]
    snapshot: Snapshot = freeze(tmp_path, gold, [], [])
    assert len(snapshot.evaluation_demonstrations()) == 4


def test_a_full_disk_is_said_and_nothing_is_half_written(base: Path, tmp_path: Path) -> None:
    """The kernel refuses to let any file grow beyond 20 kB: adapters do not fit."""
    run = tiny_run(tmp_path / "run", tiny_plan(base, stages=("snapshot", "sft", "evaluation")))
    script = (
        "import resource, sys\n"
        "from rlhf_engine.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "sys.argv = ['rlhf_engine', sys.argv[1]]\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(run.path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "stage sft" in done.stderr
    assert "resume the run" in done.stderr
    assert "Traceback" not in done.stderr
    assert run.report("sft") is None
    assert not list((run.stage_path("sft") / "adapter").glob("*"))
    train(run.path)
    assert run.report("evaluation") is not None
