"""What each reward signal read of the policies' answers to evaluation questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from service.tables import PolicyVersion, StageReport, TrainingRun

MOST_RUNS = 50


@dataclass(frozen=True, slots=True)
class SignalReadings:
    """What a signal read of a candidate's answers in its evaluation, and of those of the version
    that was live then. A mean is None where the signal abstained from all `of` answers; `read` is
    how many of the candidate's it did not abstain from."""

    run_id: str
    version: int
    state: str
    mean: float | None
    read: int
    of: int
    live_mean: float | None


def readings_by_signal(session: Session) -> dict[str, list[SignalReadings]]:
    """The newest runs' readings by the signal's name, the newest first."""
    query = (
        select(StageReport, PolicyVersion)
        .join(TrainingRun, col(TrainingRun.id) == col(StageReport.run_id))
        .join(PolicyVersion, col(PolicyVersion.id) == col(TrainingRun.candidate_id))
        .where(StageReport.stage == "evaluation")
        .order_by(col(StageReport.created_at).desc())
        .limit(MOST_RUNS)
    )
    found: dict[str, list[SignalReadings]] = {}
    for report, version in session.exec(query):
        for name, read in report.figures.get("signals", {}).items():
            found.setdefault(name, []).append(_readings(report, version, read))
    return found


def _readings(
    report: StageReport, version: PolicyVersion, read: dict[str, dict[str, Any]]
) -> SignalReadings:
    candidate, live = read["candidate"], read["live"]
    of = candidate["read"] + candidate["abstained"]
    return SignalReadings(
        report.run_id,
        version.number,
        version.state,
        candidate["mean"],
        candidate["read"],
        of,
        live["mean"],
    )
