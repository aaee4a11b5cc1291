"""Tells the observers of promotions and finished runs; none of them holds anything up.

Each is told once; a run that is resumed, or promoted after all, ends once more. One that fails,
or cannot be reached, is not told again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy import Engine, and_
from sqlmodel import col, select

from plugins import contract
from service.database import session
from service.errors import HeedError
from service.plugin_hosted import HostedObserver
from service.plugin_state import open_host
from service.settings import Settings
from service.tables import GateReport, Promotion, TrainingRun

log = structlog.get_logger(__name__)


def tell_promoted(settings: Settings, database: Engine, promotion: Promotion) -> None:
    """Tell every observer, in the background, that a version went live, and of a run that ended
    by it, having waited for a person's approval or come too late before."""
    if not settings.observers:
        return
    event = contract.Promotion(
        version=promotion.version_id,
        previous=promotion.replaced_id,
        by=promotion.by,
        reason=promotion.evidence,
    )
    _tell(settings, database, "promoted", lambda observer: observer.promoted(event))
    for run in _ended_by(database, promotion.id):
        tell_finished(settings, database, run)


def tell_finished(settings: Settings, database: Engine, run: TrainingRun) -> None:
    """Tell every observer, in the background, that a run ended."""
    if not settings.observers:
        return
    with session(database) as opened:
        report = opened.exec(select(GateReport).where(GateReport.run_id == run.id)).first()
    figures = report.figures if report is not None else {}
    event = contract.FinishedRun(run.id, run.state, _numbers(figures))
    _tell(settings, database, "run_finished", lambda observer: observer.run_finished(event))


def _ended_by(database: Engine, promotion_id: str) -> Sequence[TrainingRun]:
    """Runs that ended when the promotion was done; the others are told of by their conductors."""
    ended = (
        col(TrainingRun.candidate_id) == col(Promotion.version_id),
        col(TrainingRun.finished_at) == col(Promotion.finished_at),
    )
    query = select(TrainingRun).join(Promotion, and_(*ended))
    with session(database) as opened:
        return opened.exec(
            query.where(Promotion.id == promotion_id, TrainingRun.state == "promoted")
        ).all()


def _tell(
    settings: Settings, database: Engine, what: str, tell: Callable[[HostedObserver], None]
) -> None:
    if not settings.observers:
        return

    def work() -> None:
        host = open_host(settings, database)
        for entry in settings.observers:
            try:
                tell(host.observer(entry))
            except HeedError as error:
                log.warning("observer_failed", observer=entry.name, error=str(error), next="none")
        host.flush()

    # No daemon: a command that ends here still tells everybody.
    threading.Thread(target=work, name=f"observers-{what}").start()


def _numbers(figures: dict[str, object]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
