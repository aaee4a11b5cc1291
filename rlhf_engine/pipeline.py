"""A run from its first stage without a marker to the gate."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from rlhf_engine.backbone import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from rlhf_engine.base_files import OFFLINE
from rlhf_engine.errors import DiskError, PlanError, RunFolderError
from rlhf_engine.evaluation import run_evaluation
from rlhf_engine.files import replaced
from rlhf_engine.folders import published
from rlhf_engine.generation import limited_threads
from rlhf_engine.memory import give_back
from rlhf_engine.plan import RunPlan
from rlhf_engine.ppo import run_ppo
from rlhf_engine.processes import Processes
from rlhf_engine.records import GateReport, StageReport
from rlhf_engine.reward_stage import run_reward_model
from rlhf_engine.run_folder import Progress, RunFolder
from rlhf_engine.sft import run_sft
from rlhf_engine.signals import RewardSignal
from rlhf_engine.snapshot import Snapshot
from rlhf_engine.speed import measure_speed
from rlhf_engine.stage import Stage, draw

OnProgress = Callable[[Progress], None]


def train(
    run_dir: Path,
    signals: Sequence[RewardSignal] = (),
    on_progress: OnProgress | None = None,
    until: str | None = None,
) -> GateReport | None:
    """Work through the plan's stages, or up to `until`; what a marker says is done is not done
    again. Where several processes were started together, they share the stage ppo, which must
    be the next one (`train_together`).

    Returns the gate's verdict, None for a plan without evaluation. Raises Cancelled
    when the run was asked to stop, RunFolderError when another process is at it, and
    EngineErrors that name their stage. Whatever is raised, the folder can be resumed.
    """
    run = RunFolder(run_dir)
    plan = run.plan()
    ordered = _signals_of(plan, signals)
    processes = Processes()
    if processes.count > 1:
        train_together(run, plan, ordered, processes, on_progress)
        return None
    with run.held(), limited_threads(plan.threads), _offline_and_quiet():
        snapshot = _snapshot(run)
        dtype = _dtype(run, plan)
        for name in _stages_until(plan, until):
            if run.report(name) is not None:
                # The marker may have been the last thing that a killed process wrote.
                run.checkpoint_path(name).unlink(missing_ok=True)
            else:
                run.raise_if_cancelled()
                with _disk_errors_named(run, name):
                    _run_stage(Stage(name, run, plan, dtype, on_progress), snapshot, ordered)
                give_back()
        if until in (None, plan.stages[-1]):
            _keep_candidate(run, plan)
        draw(run)
    return run.gate_report()


def train_together(
    run: RunFolder,
    plan: RunPlan,
    signals: Sequence[RewardSignal],
    processes: Processes,
    on_progress: OnProgress | None = None,
) -> None:
    """Share the stage ppo with the other processes; the first one alone writes the folder.

    PlanError where a stage before it is not done: those run in one process.
    """
    missing = [name for name in plan.stages if name != "evaluation" and run.report(name) is None]
    if missing == []:
        return
    if missing != ["ppo"]:
        raise PlanError(
            f"{processes.count} processes share the stage ppo alone, and {missing[0]} is not done; "
            f"run `python -m rlhf_engine {run.path} --until reward_model` in one process first"
        )
    held = run.held() if processes.first else nullcontext()
    with held, limited_threads(plan.threads), _offline_and_quiet():
        stage = Stage("ppo", run, plan, _dtype(run, plan), on_progress)
        stage.path.mkdir(parents=True, exist_ok=True)
        if processes.first:
            run.forget_unless_kept("ppo")
        report = run_ppo(stage, _snapshot(run), signals)
        if processes.first:
            run.mark_done(report)
            draw(run)
        processes.wait()


def _stages_until(plan: RunPlan, until: str | None) -> Sequence[str]:
    if until is None:
        return plan.stages
    if until not in plan.stages:
        raise PlanError(f"the plan has no stage {until}; its stages are {list(plan.stages)}")
    return plan.stages[: plan.stages.index(until) + 1]


@contextmanager
def _offline_and_quiet() -> Iterator[None]:
    """Nothing here asks a hub; the environment is put back, since whoever called may."""
    before = {name: os.environ.get(name) for name in OFFLINE}
    os.environ.update(OFFLINE)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _disk_errors_named(run: RunFolder, stage: str) -> Iterator[None]:
    """A full disk, or one that fails, is told as what it is; safetensors has its own error."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DiskError(
            f"stage {stage} of run {run.path.name} could not read or write its files: {error}; "
            "free or mend the disk, then resume the run: finished stages are kept"
        ) from error


def _run_stage(stage: Stage, snapshot: Snapshot, signals: Sequence[RewardSignal]) -> None:
    stage.path.mkdir(parents=True, exist_ok=True)
    stage.run.forget_unless_kept(stage.name)
    stage.tell(0, 1, "starting")
    if stage.name == "sft":
        report = run_sft(stage, snapshot)
    elif stage.name == "reward_model":
        report = run_reward_model(stage, snapshot)
    elif stage.name == "ppo":
        report = run_ppo(stage, snapshot, signals)
    elif stage.name == "evaluation":
        report, verdict = run_evaluation(stage, snapshot, signals)
        stage.run.write_gate_report(verdict)
    else:
        report = _snapshot_report(stage, snapshot)
    stage.run.mark_done(report)
    stage.tell(1, 1, "done")


def _snapshot(run: RunFolder) -> Snapshot:
    return Snapshot.open(run.stage_path("snapshot"))


def _snapshot_report(stage: Stage, snapshot: Snapshot) -> StageReport:
    figures = {
        "hash": snapshot.hash,
        "demonstrations": len(snapshot.demonstrations),
        "training_demonstrations": len(snapshot.training_demonstrations()),
        "evaluation_demonstrations": len(snapshot.evaluation_demonstrations()),
        "comparisons": len(snapshot.comparisons),
        "simulated": sum(item.simulated for item in snapshot.comparisons),
        "prompts": len(snapshot.prompts),
    }
    return StageReport(stage.name, stage.seconds(), figures)


def _dtype(run: RunFolder, plan: RunPlan) -> str:
    """The plan's number format; a measured choice is kept, so that a resumed run computes alike."""
    if plan.dtype != "auto":
        return plan.dtype
    kept = run.path / "dtype"
    if not kept.exists():
        measured = measure_speed(Path(plan.base), plan.threads).dtype
        with replaced(kept) as temporary:
            temporary.write_text(measured, encoding="utf-8")
    return kept.read_text(encoding="utf-8")


def _signals_of(plan: RunPlan, signals: Sequence[RewardSignal]) -> list[RewardSignal]:
    """The plan's signals among those given, in the plan's order and by its weights."""
    by_name = {signal.name: signal for signal in signals}
    for wanted in plan.signals:
        if wanted.name not in by_name:
            raise PlanError(
                f"the plan names the reward signal {wanted.name}, which is not loaded; "
                "run it through `heed train`, which loads plugins, or take it out of plan.json"
            )
        if by_name[wanted.name].weight != wanted.weight:
            raise PlanError(
                f"reward signal {wanted.name} has weight {by_name[wanted.name].weight}, and the "
                f"plan says {wanted.weight}; make them equal"
            )
    return [by_name[wanted.name] for wanted in plan.signals]


def _keep_candidate(run: RunFolder, plan: RunPlan) -> None:
    """Copy the last policy's adapter to RUN/candidate, whole or not at all."""
    if run.candidate_path.exists():
        return
    last = "ppo" if plan.has_ppo else "sft"
    source = run.stage_path(last) / "adapter"
    if not source.exists():
        raise RunFolderError(f"{source} is missing; the plan has no stage that makes a policy")
    with published(run.candidate_path) as folder:
        for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
            shutil.copyfile(source / name, folder / name)
