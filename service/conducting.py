"""One training run, conducted: snapshot, plan, worker, and what comes of it.

Whoever conducts holds the run's lease and writes its row only while the fencing
number is still theirs. Everything here may be cut off at any line: a second go finds
what is done (snapshot, plan, stage markers, stored versions) and does the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import structlog
from sqlalchemy import Engine, update
from sqlmodel import col, select

import rlhf_engine
from rlhf_engine.plan import STAGES
from rlhf_engine.records import to_json
from service import (
    effects,
    evidence,
    leases,
    observing,
    plugin_state,
    run_outcome,
    run_plan,
    run_signals,
    vote_spreads,
    worker,
)
from service.database import changed_rows, session
from service.errors import ConflictError, DatabaseError, HeedError, TrainingRunError
from service.passage_finder import PassageFinder
from service.redaction import open_redaction
from service.settings import Settings
from service.tables import StageReport, TrainingRun, now
from service.worker_process import WorkerProcess

LEASE_S = 30
CHECK_S = 0.4

CANCEL_GRACE_S = 60
"""How long a worker may take to honour a cancel before it is killed."""

log = structlog.get_logger(__name__)


class _LeaseLostError(ConflictError):
    """Another conductor has the run now; nothing more may be written."""


class _Stopped(Exception):  # noqa: N818 - not a fault: the conductor was asked to leave
    """The conductor itself was asked to leave; the run stays queued."""


class _Lease:
    """The run's lease, renewed by a thread until the block ends."""

    def __init__(self, engine: Engine, run_id: str, holder: str) -> None:
        self._engine, self._run_id, self._holder = engine, run_id, holder
        self._ended = threading.Event()
        self.lost = threading.Event()
        self.fencing = 0

    def __enter__(self) -> _Lease:
        with session(self._engine) as opened:
            fencing = leases.claim_run(opened, self._run_id, self._holder, LEASE_S)
        if fencing is None:
            raise ConflictError(f"run {self._run_id} is conducted by somebody else")
        self.fencing = fencing
        self._thread = threading.Thread(target=self._renew, name="run-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with session(self._engine) as opened:
            leases.release_run(opened, self._run_id, self._holder, self.fencing)

    def _renew(self) -> None:
        renewed = monotonic()
        while not self._ended.wait(LEASE_S / 3):
            try:
                with session(self._engine) as opened:
                    mine = leases.renew_run(
                        opened, self._run_id, self._holder, self.fencing, LEASE_S
                    )
            except Exception as error:  # noqa: BLE001 - without this thread another takes the run
                log.warning("lease_not_renewed", run=self._run_id, error=repr(error), next="retry")
                mine = monotonic() - renewed < LEASE_S
            else:
                renewed = monotonic()
            if not mine:
                self.lost.set()
                return


class Conducting:
    """The conducting of one run by one holder."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        run_id: str,
        holder: str,
        on_progress: Callable[[rlhf_engine.Progress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._engine, self._settings, self._run_id = engine, settings, run_id
        self._on_progress = on_progress
        self._stop = stop or threading.Event()
        self._lease = _Lease(engine, run_id, holder)
        self._cancel_asked_at: float | None = None
        self._worker_said: str | None = None
        self._finished = False

    def to_its_end(self) -> TrainingRun:
        """Conduct the run; its row tells how it ended. ConflictError: somebody else has it.

        A KeyboardInterrupt is passed on, and leaves the run interrupted.
        """
        try:
            with self._lease:
                self._conduct_or_fail()
        finally:
            if self._finished:
                observing.tell_finished(self._settings, self._engine, self._row())
        return self._row()

    def _conduct_or_fail(self) -> None:
        try:
            self._conduct()
        except _Stopped:
            self._write(state="queued")
        except _LeaseLostError:
            raise
        except KeyboardInterrupt:
            told = "it was stopped at the keyboard; heed train resume goes on with it"
            # Whatever becomes of the row, the program is to end.
            with suppress(HeedError):
                self._finish("interrupted", error=told)
            raise
        except (rlhf_engine.EngineError, HeedError, OSError) as error:
            log.warning("run_failed", run=self._run_id, error=str(error))
            self._finish("failed", error=str(error))
        # A run that stayed at work would be taken again and again, and keep others waiting.
        except Exception as error:
            # First, since a lost lease ends it here.
            self._finish("failed", error=_unexpected(error, self._run_id))
            log.exception("run_failed", run=self._run_id)

    def _conduct(self) -> None:
        run = self._row()
        if run.state not in ("queued", "running"):
            return
        folder = rlhf_engine.RunFolder(Path(run.folder))
        self._write(state="running", error=None, started_at=run.started_at or now())
        folder.clear_cancel()
        self._freeze(folder)
        plan = self._plan(folder, run.plan)
        code = self._work(folder)
        self._copy_reports(folder)
        self._note_plugins(folder)
        self._end(code, folder, plan)

    def _freeze(self, folder: rlhf_engine.RunFolder) -> None:
        path = folder.stage_path("snapshot")
        if not (path / "manifest.json").exists():
            # Before the manifest, after which none of this is done again.
            with session(self._engine) as opened:
                count = evidence.count_comparisons(opened)
                vote_spreads.leave_pairs(opened, folder.path, self._settings.voting.scored_pairs)
            self._write(comparisons=count)
            redact = open_redaction(self._settings, self._engine)
            finder = PassageFinder(self._settings, self._engine, patient=True)
            with closing(redact), closing(finder), session(self._engine) as opened:
                evidence.freeze_snapshot(
                    opened,
                    path,
                    self._settings.training.held_out_percent,
                    self._settings.answers.passages,
                    now() - timedelta(seconds=self._settings.voting.undo_s),
                    self._settings.answers.source_bar,
                    redact,
                    finder,
                )
        self._write(snapshot_hash=rlhf_engine.Snapshot.open(path).hash)

    def _plan(
        self, folder: rlhf_engine.RunFolder, overrides: dict[str, Any]
    ) -> rlhf_engine.RunPlan:
        if folder.plan_path.exists():
            return folder.plan()
        plan = self._new_plan(folder, overrides)
        with session(self._engine) as opened:
            off = plugin_state.reasons_off(opened)
            run_signals.write_signals(folder.path, self._settings, off)
            run_plan.take_over_answers(opened, plan, folder)
        rlhf_engine.RunFolder.create(folder.path, plan)
        self._write(plan=to_json(plan))
        return plan

    def _new_plan(
        self, folder: rlhf_engine.RunFolder, overrides: dict[str, Any]
    ) -> rlhf_engine.RunPlan:
        settings = self._settings
        base = rlhf_engine.fetch_base(
            settings.base_policy, settings.base_cache, settings.base_revision
        )
        with session(self._engine) as opened:
            live = run_plan.live_folder(opened, settings)
        plan = run_plan.plan_from(
            settings, overrides, str(base.resolve()), str(live.resolve()) if live else None
        )
        snapshot = rlhf_engine.Snapshot.open(folder.stage_path("snapshot"))
        if "stages" not in overrides:
            plan = replace(plan, stages=run_plan.choose_stages(plan, snapshot))
        with session(self._engine) as opened:
            plan = run_plan.with_earlier_sft(opened, settings, plan, snapshot)
            return run_plan.with_earlier_reward_model(opened, plan, snapshot)

    def _work(self, folder: rlhf_engine.RunFolder) -> int:
        training = self._settings.training
        process = WorkerProcess.start(folder.path, training.niceness, training.threads)
        log.info("worker_started", run=self._run_id, pid=process.pid)
        try:
            while (code := process.wait(CHECK_S)) is None:
                self._look(folder)
                if self._cancel_is_overdue():
                    return worker.CANCELLED
            if code not in (worker.DONE, worker.CANCELLED):
                self._worker_said = process.why_it_ended(code)
            return code
        finally:
            process.kill()

    def _look(self, folder: rlhf_engine.RunFolder) -> None:
        if self._lease.lost.is_set():
            raise _LeaseLostError(f"the lease of run {self._run_id} was lost; the worker was ended")
        if self._stop.is_set():
            raise _Stopped
        progress = folder.progress()
        if progress is not None and self._on_progress is not None:
            self._on_progress(progress)
        try:
            self._copy_reports(folder)
            wanted = self._row().cancel_requested
        except DatabaseError as error:
            # The worker needs no database: it may go on until the database is back.
            log.warning("database_away", run=self._run_id, error=str(error), next="tries again")
            return
        if wanted and self._cancel_asked_at is None:
            folder.request_cancel()
            self._cancel_asked_at = monotonic()

    def _cancel_is_overdue(self) -> bool:
        asked = self._cancel_asked_at
        return asked is not None and monotonic() - asked > CANCEL_GRACE_S

    def _end(self, code: int, folder: rlhf_engine.RunFolder, plan: rlhf_engine.RunPlan) -> None:
        if code == worker.DONE:
            with session(self._engine) as opened:
                effects.note_learnt(opened, self._run_id, folder, plan)
                vote_spreads.note_spreads(opened, folder.path)
            outcome = run_outcome.settle(self._engine, self._settings, self._row(), folder, plan)
            came_of_it = {"candidate_id": outcome.candidate_id, "error": outcome.error}
            if outcome.state == "awaiting_approval":
                self._write(state=outcome.state, finished_at=None, **came_of_it)
            else:
                self._finish(outcome.state, **came_of_it)
        elif code == worker.CANCELLED:
            self._finish("cancelled")
        else:
            self._finish("interrupted" if code < 0 else "failed", error=self._worker_said)
        log.info("run_ended", run=self._run_id, state=self._row().state)

    def _copy_reports(self, folder: rlhf_engine.RunFolder) -> None:
        with session(self._engine) as opened:
            statement = select(StageReport.stage).where(StageReport.run_id == self._run_id)
            known = set(opened.exec(statement))
            for stage in STAGES:
                report = folder.report(stage) if stage not in known else None
                if report is not None:
                    opened.add(StageReport(run_id=self._run_id, **to_json(report)))
                    log.info("stage_done", run=self._run_id, stage=stage, seconds=report.seconds)

    def _note_plugins(self, folder: rlhf_engine.RunFolder) -> None:
        failures = self._settings.plugin_limits.failures
        with session(self._engine) as opened:
            plugin_state.note_all(opened, run_signals.take_calls(folder.path), failures)

    def _row(self) -> TrainingRun:
        with session(self._engine) as opened:
            run = opened.get(TrainingRun, self._run_id)
        if run is None:
            raise TrainingRunError(f"run {self._run_id} is not in the database any more")
        return run

    def _finish(self, state: str, **values: Any) -> None:
        """Write how the run ended; observers are told when the lease is given back."""
        self._write(state=state, finished_at=now(), **values)
        self._finished = True

    def _write(self, **values: Any) -> None:
        """Write to the run's row, unless another conductor took the run over."""
        mine = (
            col(TrainingRun.id) == self._run_id,
            col(TrainingRun.fencing) == self._lease.fencing,
        )
        with session(self._engine) as opened:
            done = changed_rows(opened.execute(update(TrainingRun).where(*mine).values(**values)))
        if not done:
            raise _LeaseLostError(f"run {self._run_id} was taken over by another conductor")


def _unexpected(error: Exception, run_id: str) -> str:
    # The error's own text may hold what people wrote.
    return (
        f"something unexpected went wrong ({type(error).__name__}); the log of the program that "
        f"conducted the run has its trace. Try again (heed train resume {run_id}), or start a "
        "new run"
    )
