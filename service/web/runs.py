"""Training runs: how they go and went, and what operators decide about them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody
from sqlmodel import Session, col, func, select

import rlhf_engine
from rlhf_engine.records import to_json
from service import (
    audit,
    evidence,
    gate_rules,
    observing,
    run_decisions,
    run_timing,
    scheduler,
    training,
)
from service.database import session
from service.errors import NotFoundError
from service.keyset import Place, newest_first, place
from service.tables import (
    Comparison,
    GateReport,
    GoldAnswer,
    PolicyVersion,
    StageReport,
    Thumb,
    TrainingRun,
    now,
)
from service.web.parts import GivenParts, Parts
from service.web.rights import needs
from service.web.sessions import GivenPerson

MOST_RUNS = 50
PLOT = "plot.png"


class Count(msgspec.Struct):
    """How many rows there are, and how many of these a simulated person made."""

    total: int
    simulated: int


class Evidence(msgspec.Struct):
    """What people have said so far."""

    comparisons: Count
    thumbs: Count
    corrections: int


class WinRate(msgspec.Struct):
    """Share of held-out questions that the candidate wins against the version that was live, by
    the reward model, with its interval."""

    value: float
    low: float
    high: float


class RunEntry(msgspec.Struct):
    """A run in the list. `progress` is there while it runs; `sentence` is the gate's. `seconds`
    is its time from begin to end, or to now; `at_schedule` says that the scheduler began it."""

    id: str
    state: str
    reason: str
    requested_by: str
    at_schedule: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None
    error: str | None
    candidate: int | None
    candidate_id: str | None
    sentence: str | None
    win_rate: WinRate | None
    progress: dict[str, Any] | None


class Stage(msgspec.Struct):
    """What a finished stage measured."""

    stage: str
    seconds: float
    figures: dict[str, Any]


class PlannedStage(msgspec.Struct):
    """A stage of the run's plan. `state` is "done", "running", "waiting" or "stopped"; `usually_s`
    says how long it took the last time."""

    stage: str
    state: str
    began_at: datetime | None
    ended_at: datetime | None
    seconds: float | None
    usually_s: float | None


class Rule(msgspec.Struct):
    """One rule of the gate, in sentences."""

    name: str
    asked: str
    found: str
    passed: bool


class Gate(msgspec.Struct):
    """Why the candidate was or was not let through."""

    passed: bool
    sentence: str
    figures: dict[str, Any]
    rules: list[Rule]


class RunDetail(RunEntry):
    """A run with its plan, its stages and its gate. `evidence` counts the comparisons it could
    learn from; `left_s` estimates the seconds until its end, by the last run's stages. `may` lists
    what can be done with it now: "cancel", "resume", "approve", "reject"."""

    plan: dict[str, Any]
    snapshot_hash: str | None
    evidence: Count
    stages: list[Stage]
    planned: list[PlannedStage]
    left_s: float | None
    gate: Gate | None
    has_plot: bool
    may: list[str]


class Schedule(msgspec.Struct):
    """When the scheduler looks next (null without a schedule), and what it asks for: at least
    `needed` comparisons that came since the last snapshot."""

    next: datetime | None
    needed: int
    new_comparisons: int


class Runs(msgspec.Struct):
    """The newest runs, and the evidence the next one would have. `next` continues the list."""

    evidence: Evidence
    schedule: Schedule
    runs: list[RunEntry]
    next: str | None


class NewRun(msgspec.Struct, forbid_unknown_fields=True):
    """Why a run is asked for."""

    reason: str = "asked for on the page"


class Decision(msgspec.Struct, forbid_unknown_fields=True):
    """On what grounds a run's candidate is approved or rejected."""

    reason: str = "decided on the page"


@get("/api/runs", security=needs("reviewer", "read"), tags=["Training"], sync_to_thread=True)
def list_runs(
    reviewer: GivenPerson,  # noqa: ARG001 - for reviewers
    parts: GivenParts,
    after: FromQuery[str | None] = None,
) -> Runs:
    """The newest runs, what people have said so far, and when the scheduler looks next."""
    with session(parts.database) as opened:
        query = newest_first(select(TrainingRun), TrainingRun, place(after), MOST_RUNS + 1)
        found = opened.exec(query).all()
        runs, more = found[:MOST_RUNS], len(found) > MOST_RUNS
        corrections = select(func.count()).where(GoldAnswer.origin == "correction")
        return Runs(
            evidence=Evidence(
                comparisons=_count(opened, Comparison),
                thumbs=_count(opened, Thumb),
                corrections=opened.exec(corrections).one(),
            ),
            schedule=_schedule(opened, parts),
            runs=_entries(opened, runs),
            next=str(Place(runs[-1].created_at, runs[-1].id)) if more else None,
        )


@get(
    "/api/runs/{run_id:str}",
    security=needs("reviewer", "read"),
    tags=["Training"],
    sync_to_thread=True,
)
def show_run(reviewer: GivenPerson, parts: GivenParts, run_id: FromPath[str]) -> RunDetail:  # noqa: ARG001 - as above
    """One run with its stages, figures and gate."""
    with session(parts.database) as opened:
        return _detail(opened, find_run(opened, run_id))


@post(
    "/api/runs",
    status_code=202,
    security=needs("operator", "operate"),
    tags=["Training"],
    sync_to_thread=True,
)
def start_run(operator: GivenPerson, parts: GivenParts, data: JSONBody[NewRun]) -> RunEntry:
    """Queue a training run; operators only."""
    with session(parts.database) as opened:
        run = training.start_run(opened, parts.settings, operator.name, data.reason)
        audit.record(opened, operator, "run.started", f"run:{run.id}")
        return _entry(opened, run)


@post(
    "/api/runs/{run_id:str}/cancel",
    status_code=202,
    security=needs("operator", "operate"),
    tags=["Training"],
    sync_to_thread=True,
)
def cancel_run(operator: GivenPerson, parts: GivenParts, run_id: FromPath[str]) -> RunEntry:
    """Ask a run to stop; what it finished is kept. Operators only."""
    with session(parts.database) as opened:
        find_run(opened, run_id)
        run = training.cancel_run(opened, run_id)
        audit.record(opened, operator, "run.cancelled", f"run:{run_id}")
        entry = _entry(opened, run)
    if run.state == "cancelled":
        observing.tell_finished(parts.settings, parts.database, run)
    return entry


@post(
    "/api/runs/{run_id:str}/resume",
    status_code=202,
    security=needs("operator", "operate"),
    tags=["Training"],
    sync_to_thread=True,
)
def resume_run(operator: GivenPerson, parts: GivenParts, run_id: FromPath[str]) -> RunEntry:
    """Queue an interrupted, failed or cancelled run again; it goes on from its last finished
    stage. Operators only; 409 where it cannot be resumed."""
    with session(parts.database) as opened:
        find_run(opened, run_id)
        run = training.resume_run(opened, run_id)
        audit.record(opened, operator, "run.resumed", f"run:{run_id}")
        return _entry(opened, run)


@post(
    "/api/runs/{run_id:str}/approve",
    status_code=202,
    security=needs("operator", "operate"),
    tags=["Training"],
    sync_to_thread=True,
)
def approve_run(
    operator: GivenPerson, parts: GivenParts, run_id: FromPath[str], data: JSONBody[Decision]
) -> RunEntry:
    """Ask that the candidate of a run that awaits approval goes live; operators only."""
    with session(parts.database) as opened:
        run = find_run(opened, run_id)
        asked = run_decisions.approve(opened, run, operator.name, data.reason)
        audit.record(opened, operator, "run.approved", f"run:{run_id}", version=asked.version_id)
        entry = _entry(opened, run)
    parts.swapper.wake()
    return entry


@post(
    "/api/runs/{run_id:str}/reject",
    status_code=202,
    security=needs("operator", "operate"),
    tags=["Training"],
    sync_to_thread=True,
)
def reject_run(
    operator: GivenPerson, parts: GivenParts, run_id: FromPath[str], data: JSONBody[Decision]
) -> RunEntry:
    """Refuse the candidate of a run that awaits approval for good; operators only."""
    with session(parts.database) as opened:
        run = find_run(opened, run_id)
        version = run.candidate_id
        run_decisions.reject(opened, run, operator.name, data.reason)
        audit.record(opened, operator, "run.rejected", f"run:{run_id}", version=version)
        run = find_run(opened, run_id)
        entry = _entry(opened, run)
    observing.tell_finished(parts.settings, parts.database, run)
    return entry


def find_run(opened: Session, run_id: str) -> TrainingRun:
    """The run of exactly that id; NotFoundError otherwise."""
    run = opened.get(TrainingRun, run_id)
    if run is None:
        raise NotFoundError(f"there is no run {run_id!r}")
    return run


def _schedule(opened: Session, parts: Parts) -> Schedule:
    return Schedule(
        next=scheduler.next_due(parts.settings, "train", now()),
        needed=parts.settings.training.min_new_comparisons,
        new_comparisons=evidence.new_comparisons(opened),
    )


def _entries(opened: Session, runs: Sequence[TrainingRun]) -> list[RunEntry]:
    """Entries of several runs, with two queries for all of them."""
    reports = select(GateReport).where(col(GateReport.run_id).in_([run.id for run in runs]))
    gates = {gate.run_id: gate for gate in opened.exec(reports)}
    wanted = {run.candidate_id for run in runs if run.candidate_id}
    versions = select(PolicyVersion.id, PolicyVersion.number).where(
        col(PolicyVersion.id).in_(wanted)
    )
    numbers = dict(opened.exec(versions).all())
    return [
        RunEntry(**_fields(run, gates.get(run.id), numbers.get(run.candidate_id or "")))
        for run in runs
    ]


def _entry(opened: Session, run: TrainingRun) -> RunEntry:
    return _entries(opened, [run])[0]


def _detail(opened: Session, run: TrainingRun) -> RunDetail:
    entry = _entry(opened, run)
    ordered = select(StageReport).where(StageReport.run_id == run.id)
    reports = opened.exec(ordered.order_by(col(StageReport.created_at))).all()
    progress = _progress(run)
    timings = run_timing.stage_timings(opened, run, reports, progress)
    gate = opened.exec(select(GateReport).where(GateReport.run_id == run.id)).first()
    at_work = run.state in training.AT_WORK
    return RunDetail(
        **{name: getattr(entry, name) for name in RunEntry.__struct_fields__},
        plan=run.plan,
        snapshot_hash=run.snapshot_hash,
        evidence=_count(opened, Comparison, run.started_at),
        stages=[Stage(row.stage, row.seconds, row.figures) for row in reports],
        planned=[PlannedStage(**_plain(timing)) for timing in timings],
        left_s=run_timing.seconds_left(timings, progress) if at_work else None,
        gate=_gate(gate, run) if gate else None,
        has_plot=(Path(run.folder) / PLOT).is_file(),
        may=_may(run),
    )


def _fields(run: TrainingRun, gate: GateReport | None, candidate: int | None) -> dict[str, Any]:
    progress = _progress(run)
    shown = {name for name in RunEntry.__struct_fields__ if name in TrainingRun.model_fields}
    rate = gate.figures.get("win_rate") if gate else None
    ended = run.finished_at or (now() if run.state == "running" else None)
    return {
        **run.model_dump(include=shown),
        "at_schedule": run.requested_by == "scheduler",
        "seconds": (ended - run.started_at).total_seconds() if ended and run.started_at else None,
        "candidate": candidate,
        "sentence": gate.sentence if gate else None,
        "win_rate": WinRate(rate["value"], rate["lower"], rate["upper"]) if rate else None,
        "progress": to_json(progress) if progress else None,
    }


def _progress(run: TrainingRun) -> rlhf_engine.Progress | None:
    return rlhf_engine.RunFolder(Path(run.folder)).progress() if run.state == "running" else None


def _gate(gate: GateReport, run: TrainingRun) -> Gate:
    rules = [Rule(**_plain(rule)) for rule in gate_rules.rule_reports(gate.figures, run.plan)]
    return Gate(gate.passed, gate.sentence, gate.figures, rules)


def _may(run: TrainingRun) -> list[str]:
    """What can be done with a run in its state; whether the one who asks may is another matter."""
    if run.state == "awaiting_approval":
        return ["approve", "reject"]
    if run.state in training.AT_WORK and not run.cancel_requested:
        return ["cancel"]
    return ["resume"] if run.state in training.RESUMABLE else []


def _plain(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _count(
    opened: Session, kind: type[Comparison] | type[Thumb], before: datetime | None = None
) -> Count:
    query = select(func.count()).select_from(kind)
    if before is not None:
        query = query.where(col(kind.created_at) < before)
    simulated = query.where(col(kind.simulated).is_(True))
    return Count(opened.exec(query).one(), opened.exec(simulated).one())
