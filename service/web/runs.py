"""Training runs: how they go and went, and for operators starting and cancelling them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody
from litestar.response import File
from sqlmodel import Session, col, func, select

import rlhf_engine
from rlhf_engine.records import to_json
from service import training
from service.database import session
from service.errors import NotFoundError
from service.tables import (
    Comparison,
    GateReport,
    GoldAnswer,
    PolicyVersion,
    StageReport,
    Thumb,
    TrainingRun,
)
from service.web.parts import GivenParts
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


class RunEntry(msgspec.Struct):
    """A run in the list. `progress` is there while it runs; `sentence` is the gate's."""

    id: str
    state: str
    reason: str
    requested_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    candidate: int | None
    sentence: str | None
    progress: dict[str, Any] | None


class Stage(msgspec.Struct):
    """What a finished stage measured."""

    stage: str
    seconds: float
    figures: dict[str, Any]


class Gate(msgspec.Struct):
    """Why the candidate was or was not let through."""

    passed: bool
    sentence: str
    figures: dict[str, Any]


class RunDetail(RunEntry):
    """A run with its plan, its stages and its gate. `evidence` counts the comparisons it could
    learn from."""

    plan: dict[str, Any]
    snapshot_hash: str | None
    evidence: Count
    stages: list[Stage]
    gate: Gate | None
    has_plot: bool


class Runs(msgspec.Struct):
    """The newest runs, and the evidence the next one would have."""

    evidence: Evidence
    runs: list[RunEntry]


class NewRun(msgspec.Struct, forbid_unknown_fields=True):
    """Why a run is asked for."""

    reason: str = "asked for on the page"


@get("/api/runs", tags=["Training"], sync_to_thread=True)
def list_runs(person: GivenPerson, parts: GivenParts) -> Runs:  # noqa: ARG001 - a session is required
    """The newest runs and what people have said so far."""
    with session(parts.database) as opened:
        newest = select(TrainingRun).order_by(col(TrainingRun.created_at).desc()).limit(MOST_RUNS)
        runs = [RunEntry(**_entry(opened, run)) for run in opened.exec(newest)]
        evidence = Evidence(
            comparisons=_count(opened, Comparison),
            thumbs=_count(opened, Thumb),
            corrections=opened.exec(
                select(func.count()).where(GoldAnswer.origin == "correction")
            ).one(),
        )
    return Runs(evidence, runs)


@get("/api/runs/{run_id:str}", tags=["Training"], sync_to_thread=True)
def show_run(person: GivenPerson, parts: GivenParts, run_id: FromPath[str]) -> RunDetail:  # noqa: ARG001 - as above
    """One run with its stages, figures and gate."""
    with session(parts.database) as opened:
        run = _find(opened, run_id)
        stages = opened.exec(
            select(StageReport)
            .where(StageReport.run_id == run_id)
            .order_by(col(StageReport.created_at))
        ).all()
        gate = _gate(opened, run_id)
        return RunDetail(
            **_entry(opened, run),
            plan=run.plan,
            snapshot_hash=run.snapshot_hash,
            evidence=_count(opened, Comparison, run.started_at),
            stages=[Stage(row.stage, row.seconds, row.figures) for row in stages],
            gate=Gate(gate.passed, gate.sentence, gate.figures) if gate else None,
            has_plot=(Path(run.folder) / PLOT).is_file(),
        )


@get("/api/runs/{run_id:str}/plot.png", tags=["Training"], sync_to_thread=True)
def show_plot(person: GivenPerson, parts: GivenParts, run_id: FromPath[str]) -> File:  # noqa: ARG001 - as above
    """The run's curves as a picture; 404 before there are any."""
    with session(parts.database) as opened:
        path = Path(_find(opened, run_id).folder) / PLOT
    if not path.is_file():
        raise NotFoundError(f"run {run_id} has no picture yet")
    return File(path, media_type="image/png", content_disposition_type="inline")


@post("/api/runs", status_code=202, tags=["Training"], sync_to_thread=True)
def start_run(operator: GivenPerson, parts: GivenParts, data: JSONBody[NewRun]) -> RunEntry:
    """Queue a training run; operators only."""
    with session(parts.database) as opened:
        run = training.start_run(opened, parts.settings, operator.name, data.reason)
        return RunEntry(**_entry(opened, run))


@post("/api/runs/{run_id:str}/cancel", status_code=202, tags=["Training"], sync_to_thread=True)
def cancel_run(operator: GivenPerson, parts: GivenParts, run_id: FromPath[str]) -> RunEntry:  # noqa: ARG001 - as above
    """Ask a run to stop; what it finished is kept. Operators only."""
    with session(parts.database) as opened:
        _find(opened, run_id)
        return RunEntry(**_entry(opened, training.cancel_run(opened, run_id)))


def _find(opened: Session, run_id: str) -> TrainingRun:
    run = opened.get(TrainingRun, run_id)
    if run is None:
        raise NotFoundError(f"there is no run {run_id!r}")
    return run


def _gate(opened: Session, run_id: str) -> GateReport | None:
    return opened.exec(select(GateReport).where(GateReport.run_id == run_id)).first()


def _entry(opened: Session, run: TrainingRun) -> dict[str, Any]:
    shown = {name for name in RunEntry.__struct_fields__ if name in TrainingRun.model_fields}
    candidate = opened.get(PolicyVersion, run.candidate_id) if run.candidate_id else None
    gate = _gate(opened, run.id)
    progress = None
    if run.state == "running":
        progress = rlhf_engine.RunFolder(Path(run.folder)).progress()
    return {
        **run.model_dump(include=shown),
        "candidate": candidate.number if candidate else None,
        "sentence": gate.sentence if gate else None,
        "progress": to_json(progress) if progress else None,
    }


def _count(
    opened: Session, kind: type[Comparison] | type[Thumb], before: datetime | None = None
) -> Count:
    query = select(func.count()).select_from(kind)
    if before is not None:
        query = query.where(col(kind.created_at) < before)
    simulated = query.where(col(kind.simulated).is_(True))
    return Count(opened.exec(query).one(), opened.exec(simulated).one())
