"""Clean-up: old rows of scheduled jobs, sessions and links that are over, vectors of texts that
are gone, and the large files of runs that ended long ago.

What a run measured, its snapshot and its metrics stay for ever; weights and checkpoints
go, since what was worth keeping was stored among the policies when the run ended.
"""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import Engine, delete, func
from sqlmodel import Session, col, select

from service import passage_vectors
from service.account_tables import OneTimeLink, ProviderVisit, SignInSession
from service.database import changed_rows, session
from service.tables import JobRun, TrainingRun

JOB_ROWS_KEPT = timedelta(days=90)
RUN_FILES_KEPT = timedelta(days=14)
LARGE_BYTES = 1_000_000

# Others may be resumed.
_FOR_GOOD = ("promoted", "refused")

log = structlog.get_logger(__name__)


def clean_up(engine: Engine, at: datetime) -> int:
    """Remove what is old at the moment `at`; returns how many bytes of run files went."""
    with session(engine) as opened:
        # The newest row of each job tells the scheduler what was missed.
        newest = select(func.max(col(JobRun.slot))).group_by(col(JobRun.job))
        opened.execute(
            delete(JobRun).where(
                col(JobRun.slot) < at - JOB_ROWS_KEPT, col(JobRun.slot).not_in(newest)
            )
        )
        over = remove_sign_ins(opened, at)
        passage_vectors.remove_unused(opened)
        ended = opened.exec(
            select(TrainingRun.folder).where(
                col(TrainingRun.state).in_(_FOR_GOOD),
                col(TrainingRun.finished_at) < at - RUN_FILES_KEPT,
            )
        ).all()
    freed = sum(_remove_large_files(Path(folder)) for folder in ended)
    log.info("cleaned_up", runs=len(ended), freed_bytes=freed, sign_ins=over)
    return freed


def remove_sign_ins(opened: Session, at: datetime) -> int:
    """Remove the sessions that have run out, the one-time links that were used or have run out,
    and who never came back from the company's sign-in; returns how many rows went."""
    over = (
        delete(SignInSession).where(col(SignInSession.expires_at) <= at),
        delete(OneTimeLink).where(
            (col(OneTimeLink.expires_at) <= at) | col(OneTimeLink.used_at).is_not(None)
        ),
        delete(ProviderVisit).where(col(ProviderVisit.expires_at) <= at),
    )
    return sum(changed_rows(opened.execute(statement)) for statement in over)


def _remove_large_files(run: Path) -> int:
    freed = 0
    for path in sorted(run.rglob("*"), reverse=True):
        if path.is_dir() and path.name.startswith("checkpoint-"):
            freed += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            shutil.rmtree(path)
        elif path.is_file() and _is_weights(path, run):
            freed += path.stat().st_size
            path.unlink()
    return freed


def _is_weights(path: Path, run: Path) -> bool:
    if path.relative_to(run).parts[0] == "snapshot" or path.suffix == ".jsonl":
        return False
    return path.suffix == ".safetensors" or path.stat().st_size > LARGE_BYTES
