"""What a person decides about a run that waits for approval: its candidate goes live, or not.

The audit record of each deed is kept by whoever calls.
"""

from __future__ import annotations

import structlog
from sqlalchemy import update
from sqlmodel import Session, col, select

from service import policies
from service.database import changed_rows
from service.errors import ConflictError, TrainingRunError
from service.tables import PolicyVersion, Promotion, TrainingRun, now

REJECTED = "rejected by a person"
"""What a rejected run says before the reason; the audit record names who it was."""

log = structlog.get_logger(__name__)


def approve(session: Session, run: TrainingRun, by: str, evidence: str) -> Promotion:
    """Ask that the run's candidate goes live; the server loads and tries it first.

    TrainingRunError unless the run waits for approval. The run is promoted once the version is
    live.
    """
    candidate = _awaiting(run)
    return policies.request_promotion(session, candidate, by, evidence, run_id=run.id)


def reject(session: Session, run: TrainingRun, by: str, reason: str) -> None:
    """Refuse the run's candidate for good. TrainingRunError unless the run waits for approval,
    ConflictError where somebody approved it meanwhile."""
    candidate = _awaiting(run)
    asked = select(Promotion.id).where(
        Promotion.version_id == candidate, Promotion.state == "requested"
    )
    if session.exec(asked).first() is not None:
        raise ConflictError(
            f"run {run.id} was approved and its version is about to go live; roll back after that"
        )
    waiting = (col(TrainingRun.id) == run.id, col(TrainingRun.state) == "awaiting_approval")
    values = {"state": "refused", "error": f"{REJECTED}: {reason}", "finished_at": now()}
    if not changed_rows(session.execute(update(TrainingRun).where(*waiting).values(**values))):
        raise ConflictError(f"somebody else decided about run {run.id} meanwhile; look again")
    session.execute(
        update(PolicyVersion)
        .where(col(PolicyVersion.id) == candidate, col(PolicyVersion.state) == "candidate")
        .values(state="rejected")
    )
    policies.clear_candidate(session, candidate, f"rejected by {by}")
    session.expire_all()
    log.info("candidate_rejected", run=run.id, version=candidate)


def _awaiting(run: TrainingRun) -> str:
    if run.state != "awaiting_approval" or run.candidate_id is None:
        raise TrainingRunError(
            f"run {run.id} is {run.state}; only a run that is awaiting_approval can be decided on"
        )
    return run.candidate_id
