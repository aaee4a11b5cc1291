"""Training runs: ask for one, resume it, cancel it, watch it, and let it be conducted.

The rows are the truth. Whoever finds a run that waits may conduct it (conducting.py):
a server's Conductor, or the command line where no server lives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Engine, and_, or_
from sqlmodel import Session, col, select

import rlhf_engine
from service import policies
from service.conducting import Conducting
from service.database import session
from service.errors import ConflictError, NotFoundError, TrainingRunError
from service.leases import live_server
from service.run_plan import plan_from
from service.settings import Settings
from service.tables import TrainingRun, new_id, now

AT_WORK = ("queued", "running")
"""States of a run that is or will be conducted."""

RESUMABLE = ("interrupted", "failed", "cancelled")
"""States from which a run can be resumed."""

POLL_S = 0.5

OnProgress = Callable[[rlhf_engine.Progress], None]

log = structlog.get_logger(__name__)


def start_run(
    session: Session,
    settings: Settings,
    by: str,
    reason: str,
    plan_overrides: Mapping[str, Any] | None = None,
) -> TrainingRun:
    """Queue a training run; `plan_overrides` replace values of the RunPlan by name.

    Raises SettingsError where the plan cannot be used, and ConflictError while another
    run is at work: two would halve each other's speed and judge against the same live
    policy.
    """
    overrides = dict(plan_overrides or {})
    plan_from(settings, overrides, base="not fetched yet")
    run_id = new_id()
    _refuse_beside_another(session, run_id)
    folder = (settings.runs / run_id).resolve()
    run = TrainingRun(id=run_id, folder=str(folder), plan=overrides, requested_by=by, reason=reason)
    session.add(run)
    session.flush()
    log.info("run_queued", run=run.id, by=by, reason=reason)
    return run


def resume_run(session: Session, run_id: str | None = None) -> TrainingRun:
    """Queue an ended run again; it goes on from its last finished stage.

    By default one whose conductor is gone, else the newest resumable one. TrainingRunError
    where it cannot be resumed, ConflictError while another run is at work.
    """
    run = find_run(session, run_id) if run_id else _newest_to_resume(session)
    if run is None:
        raise TrainingRunError("no run was interrupted, failed or cancelled: nothing to resume")
    if run.state == "queued":
        return run
    if run.state not in RESUMABLE and not _abandoned(run):
        raise TrainingRunError(
            f"run {run.id} is {run.state}; only runs that are {', '.join(RESUMABLE)} can be resumed"
        )
    _refuse_beside_another(session, run.id)
    rlhf_engine.RunFolder(Path(run.folder)).clear_cancel()
    run.state, run.cancel_requested = "queued", False
    run.error = run.finished_at = None
    session.add(run)
    session.flush()
    log.info("run_resumed", run=run.id)
    return run


def cancel_run(session: Session, run_id: str | None = None) -> TrainingRun:
    """Ask a run to stop, the one at work by default; what it finished is kept.

    A run that nobody conducts is cancelled at once, a running one within its next
    step. TrainingRunError where it has ended already.
    """
    run = find_run(session, run_id) if run_id else run_at_work(session)
    if run is None:
        raise TrainingRunError("no run is at work: nothing to cancel")
    if run.state not in (*AT_WORK, "interrupted", "awaiting_approval"):
        raise TrainingRunError(f"run {run.id} is {run.state} already; nothing to cancel")
    if run.state == "awaiting_approval" and run.candidate_id:
        policies.clear_candidate(session, run.candidate_id, "its run was cancelled")
    run.cancel_requested = True
    if run.state != "running" or _abandoned(run):
        run.state, run.finished_at = "cancelled", now()
    session.add(run)
    session.flush()
    log.info("run_cancel_requested", run=run.id)
    return run


def find_run(session: Session, run_id: str) -> TrainingRun:
    """The run of that id, or of the only id that begins so; NotFoundError otherwise."""
    matches = session.exec(
        select(TrainingRun).where(col(TrainingRun.id).startswith(run_id, autoescape=True)).limit(2)
    ).all()
    if len(matches) != 1:
        found = "several runs" if matches else "no run"
        raise NotFoundError(f"{found} with an id beginning {run_id!r}; `heed train status` lists")
    return matches[0]


def run_at_work(session: Session) -> TrainingRun | None:
    """The run that is queued or running, or None."""
    return _newest(session, col(TrainingRun.state).in_(AT_WORK))


def next_run(session: Session) -> TrainingRun | None:
    """The oldest run that waits for somebody to conduct it, or whose conductor is gone."""
    waiting = or_(col(TrainingRun.state) == "queued", _is_abandoned())
    order = col(TrainingRun.created_at)
    return session.exec(select(TrainingRun).where(waiting).order_by(order)).first()


def conduct(
    engine: Engine,
    settings: Settings,
    run_id: str,
    holder: str,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> TrainingRun:
    """Conduct a run to its end in this thread and return its row.

    Raises ConflictError where somebody else conducts it. What fails in the run itself
    is in the row: its state and error. Setting `stop` ends the worker and leaves the run
    queued, so that the next conductor goes on.
    """
    return Conducting(engine, settings, run_id, holder, on_progress, stop).to_its_end()


def follow(
    engine: Engine,
    settings: Settings,
    run_id: str,
    holder: str,
    on_progress: OnProgress | None = None,
) -> TrainingRun:
    """See a run to its end: watch it where a server conducts it, conduct it here otherwise."""
    stop = threading.Event()
    while True:
        with session(engine) as opened:
            run = find_run(opened, run_id)
            served = live_server(opened) is not None
        if run.state not in AT_WORK:
            return run
        if not served and (run.state == "queued" or _abandoned(run)):
            try:
                return conduct(engine, settings, run.id, holder, on_progress)
            except ConflictError:
                log.info("run_taken_by_another", run=run.id)
        _tell_progress(run, on_progress)
        stop.wait(POLL_S)


class Conductor:
    """A thread of the server that conducts every run that waits, one after the other."""

    def __init__(self, engine: Engine, settings: Settings, holder: str) -> None:
        self._engine, self._settings, self._holder = engine, settings, holder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="conductor", daemon=True)

    def start(self) -> None:
        """Begin to look for runs."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the worker, if any, and leave its run queued for the next start."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                self._conduct_next()
            except ConflictError as error:
                log.info("run_taken_by_another", error=str(error))
            except Exception as error:  # noqa: BLE001 - without this thread no run is conducted
                log.warning("conductor_failed", error=repr(error), next="tries again")
                self._stop.wait(10 * POLL_S)

    def _conduct_next(self) -> None:
        with session(self._engine) as opened:
            run = next_run(opened)
        if run is not None:
            conduct(self._engine, self._settings, run.id, self._holder, stop=self._stop)


def _refuse_beside_another(session: Session, run_id: str) -> None:
    """ConflictError while a run other than this one is at work."""
    busy = _newest(session, col(TrainingRun.state).in_(AT_WORK), col(TrainingRun.id) != run_id)
    if busy is None:
        return
    if _abandoned(busy):
        raise ConflictError(
            f"run {busy.id} is {busy.state}, but nobody conducts it; go on with it (heed train "
            f"resume {busy.id}) or cancel it (heed train cancel {busy.id})"
        )
    raise ConflictError(
        f"run {busy.id} is {busy.state}; wait for its end (heed train status) "
        "or cancel it (heed train cancel)"
    )


def _newest_to_resume(session: Session) -> TrainingRun | None:
    resumable = col(TrainingRun.state).in_(RESUMABLE)
    return _newest(session, _is_abandoned()) or _newest(session, resumable)


def _newest(session: Session, *which: ColumnElement[bool]) -> TrainingRun | None:
    statement = select(TrainingRun).where(*which)
    return session.exec(statement.order_by(col(TrainingRun.created_at).desc())).first()


def _is_abandoned() -> ColumnElement[bool]:
    expires = col(TrainingRun.lease_expires_at)
    return and_(col(TrainingRun.state) == "running", or_(expires.is_(None), expires < now()))


def _abandoned(run: TrainingRun) -> bool:
    if run.state != "running":
        return False
    return run.lease_expires_at is None or run.lease_expires_at < now()


def _tell_progress(run: TrainingRun, on_progress: OnProgress | None) -> None:
    progress = rlhf_engine.RunFolder(Path(run.folder)).progress()
    if progress is not None and on_progress is not None:
        on_progress(progress)
