"""The report of a sync, from its beginning: how far it is, and at last what it did."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Engine
from sqlmodel import Session, col, update

from service.database import session
from service.errors import DatabaseError
from service.source_items import MOST_REJECTED, Batch
from service.tables import SyncReport, now

TOLD_EVERY_S = 5.0
ALIVE_S = 120.0
"""Seconds after its last sign of life for which a sync is taken to go on."""
CUT_OFF = (
    "it was cut off (the server stopped, or its process was killed); "
    "the next sync goes on from the last page that was kept"
)


@dataclass(slots=True)
class Counts:
    """What pages of a sync did. `rejected` holds the first, `rejected_count` counts all."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    rejected_count: int = 0
    rejected: list[dict[str, str]] = field(default_factory=list)

    def note_rejected(self, batch: Batch) -> None:
        """Take over what the batch rejected."""
        room = MOST_REJECTED - len(self.rejected)
        told = batch.rejected[:room]
        self.rejected += [{"where": where, "reason": reason} for where, reason in told]
        self.rejected_count += batch.rejected_count

    def plus(self, page: Counts) -> Counts:
        """The sum with those of one more page."""
        return Counts(
            self.added + page.added,
            self.changed + page.changed,
            self.removed + page.removed,
            self.unchanged + page.unchanged,
            self.rejected_count + page.rejected_count,
            [*self.rejected, *page.rejected][:MOST_REJECTED],
        )


class RunningReport:
    """The row of a sync that goes on. What it says of pages is written with them."""

    def __init__(self, engine: Engine, source_id: str) -> None:
        self._engine = engine
        self._told_at = time.monotonic()
        of_source = col(SyncReport.source_id) == source_id
        unfinished = (of_source, col(SyncReport.finished_at).is_(None))
        row = SyncReport(source_id=source_id, started_at=now(), alive_until=_alive(0))
        self.id = row.id
        with session(engine) as opened:
            cut_off = {"finished_at": now(), "error": CUT_OFF, "waiting": None}
            opened.connection().execute(update(SyncReport).where(*unfinished).values(**cut_off))
            opened.add(row)

    def tell(self, read: int) -> None:
        """Note now and then how many items were read; a busy database is no reason to fail."""
        if time.monotonic() - self._told_at < TOLD_EVERY_S:
            return
        self._told_at = time.monotonic()
        with suppress(DatabaseError), session(self._engine) as opened:
            self._write(opened, read=read, alive_until=_alive(0), waiting=None)

    def wait(self, read: int, wait_s: float, reason: str) -> None:
        """Note that it waits for the source, and why."""
        with suppress(DatabaseError), session(self._engine) as opened:
            self._write(opened, read=read, alive_until=_alive(wait_s), waiting=reason)

    def count(self, opened: Session, read: int, counts: Counts) -> None:
        """Write what all pages so far did, in the caller's transaction."""
        self._write(
            opened,
            read=read,
            alive_until=_alive(0),
            waiting=None,
            added=counts.added,
            changed=counts.changed,
            removed=counts.removed,
            unchanged=counts.unchanged,
            rejected=counts.rejected,
            rejected_count=counts.rejected_count,
        )

    def end(self, read: int, error: str | None) -> SyncReport:
        """Write the end, and answer the whole report."""
        with session(self._engine) as opened:
            self._write(opened, read=read, waiting=None, finished_at=now(), error=error)
            return opened.get_one(SyncReport, self.id)

    def _write(self, opened: Session, **values: object) -> None:
        statement = update(SyncReport).where(col(SyncReport.id) == self.id).values(**values)
        opened.connection().execute(statement)


def goes_on(report: SyncReport) -> bool:
    """Whether the sync of this report has neither ended nor been cut off, as far as can be told."""
    if report.finished_at is not None or report.alive_until is None:
        return False
    return report.alive_until > now()


def _alive(wait_s: float) -> datetime:
    return now() + timedelta(seconds=ALIVE_S + wait_s)
