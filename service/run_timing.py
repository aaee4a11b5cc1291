"""How far a run is, when its stages were at work, and how long it will still take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlmodel import Session, col, select

import rlhf_engine
from rlhf_engine.plan import STAGES
from service.tables import StageReport, TrainingRun, now

StageState = Literal["done", "running", "waiting", "stopped"]


@dataclass(frozen=True, slots=True)
class StageTiming:
    """A stage of a run's plan. `seconds` is what it took, None before it is done; `usually_s` what
    it took the last time, None where it never ran."""

    stage: str
    state: StageState
    began_at: datetime | None
    ended_at: datetime | None
    seconds: float | None
    usually_s: float | None


def stage_timings(
    session: Session,
    run: TrainingRun,
    reports: Sequence[StageReport],
    progress: rlhf_engine.Progress | None,
) -> list[StageTiming]:
    """The stages of the run's plan in their order; all stages before there is a plan."""
    done = {report.stage: report for report in reports}
    at_work = progress.stage if progress and run.state == "running" else None
    ended: datetime | None = run.started_at
    timings: list[StageTiming] = []
    for stage in run.plan.get("stages", STAGES):
        report = done.get(stage)
        if report is not None:
            took = timedelta(seconds=report.seconds)
            began, ended = report.created_at - took, report.created_at
            timings.append(StageTiming(stage, "done", began, ended, report.seconds, None))
            continue
        state = _state(run, stage == at_work)
        began_at = ended if state != "waiting" else None
        usual = _usual_s(session, run, stage) if run.state in ("queued", "running") else None
        timings.append(StageTiming(stage, state, began_at, None, None, usual))
        at_work = at_work if state != "running" else None
    return timings


def seconds_left(
    timings: Sequence[StageTiming], progress: rlhf_engine.Progress | None
) -> float | None:
    """An estimate for the whole run, by how long stages took the last time; None without that."""
    left = 0.0
    for timing in timings:
        if timing.state == "done":
            continue
        if timing.usually_s is None:
            return None
        left += timing.usually_s
        if timing.state == "running" and timing.began_at is not None:
            spent = (now() - timing.began_at).total_seconds()
            told = progress.left_s if progress and progress.left_s is not None else 0.0
            left += max(told, timing.usually_s - spent) - timing.usually_s
    return max(left, 0.0)


def _state(run: TrainingRun, is_at_work: bool) -> StageState:
    if is_at_work:
        return "running"
    return "waiting" if run.state in ("queued", "running") else "stopped"


def _usual_s(session: Session, run: TrainingRun, stage: str) -> float | None:
    query = select(StageReport.seconds).where(
        StageReport.stage == stage, StageReport.run_id != run.id
    )
    return session.exec(query.order_by(col(StageReport.created_at).desc()).limit(1)).first()
