"""Brings what the data sources hold into the database, page by page.

Each Checkpoint of a source ends a page, which is written in one transaction (sync_pages.py); a
source without checkpoints makes one page. After a failure, a kill or a restart the next sync
goes on from the last page. A source that is briefly out is tried again later, the others being
synced meanwhile. Loading plugins and keeping their faults apart is plugin_host.py's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

import structlog
from sqlalchemy import Engine

from plugins import contract
from service.database import session
from service.errors import HeedError, SourceBusyError, SourceSecretError
from service.plugin_host import PluginHost
from service.plugin_settings import sources_in_use
from service.settings import Settings, SourceSettings
from service.source_items import Batch
from service.sync_pages import Pages
from service.sync_reports import Counts, RunningReport
from service.sync_retries import Retries
from service.tables import SyncReport

log = structlog.get_logger(__name__)

OnItem = Callable[[int], None]
"""Called with the number of items read so far."""

_RETRIES = Retries()


def sync_all(
    engine: Engine,
    host: PluginHost,
    settings: Settings,
    on_item: OnItem | None = None,
    stop: threading.Event | None = None,
    retries: Retries = _RETRIES,
) -> list[SyncReport]:
    """Sync every source in use, one after another; one report each. While a source is to be
    waited for, the others are synced."""
    with session(engine) as opened:
        sources = [source.settings for source in sources_in_use(opened, settings)]
    syncs = [_Sync(engine, host, source, on_item, stop, retries) for source in sources]
    return _run(syncs, stop or threading.Event())


def sync_source(
    engine: Engine,
    host: PluginHost,
    settings: SourceSettings,
    on_item: OnItem | None = None,
    stop: threading.Event | None = None,
    retries: Retries = _RETRIES,
) -> SyncReport:
    """Sync one source; once `stop` is set it ends at the next item.

    A source that cannot be read raises nothing: the report's `error` says why, and what was
    written before its last checkpoint stays. DatabaseError where the database fails.
    """
    sync = _Sync(engine, host, settings, on_item, stop, retries)
    return _run([sync], stop or threading.Event())[0]


class _Sync:
    """A sync of one source. `due` is when to go on with it, by the monotonic clock."""

    def __init__(
        self,
        engine: Engine,
        host: PluginHost,
        settings: SourceSettings,
        on_item: OnItem | None,
        stop: threading.Event | None,
        retries: Retries,
    ) -> None:
        self._engine, self._host, self._settings = engine, host, settings
        self._on_item, self._stop, self._retries = on_item, stop, retries
        self._started: tuple[Pages, RunningReport] | None = None
        self._counts = Counts()
        self._read = 0
        self._failed = 0
        self.due = 0.0
        self.report: SyncReport | None = None

    def go_on(self) -> None:
        """Read on from the last page. Afterwards either `report` is there, or `due` says when to
        call again."""
        if self._started is None:
            pages = Pages(self._engine, self._settings)
            self._started = pages, RunningReport(self._engine, pages.source_id)
        pages, report = self._started
        try:
            self._read_pages(pages, report)
        except SourceBusyError as error:
            self._failed += 1
            wait_s = self._retries.wait_s(self._failed, error.retry_after_s)
            if wait_s is None:
                self._end(report, f"given up after {self._failed} tries: {error}")
                return
            log.info("sync_waits", source=self._settings.name, seconds=round(wait_s))
            report.wait(self._read, wait_s, str(error))
            self.due = time.monotonic() + wait_s
        except SourceSecretError as error:
            self._end(report, f"its secret is not taken; renew it, then sync again: {error}")
        except HeedError as error:
            self._end(report, str(error))
        else:
            self._end(report, None)

    def _read_pages(self, pages: Pages, report: RunningReport) -> None:
        self._look_for_stop()
        batch = Batch()
        source = self._host.data_source(self._settings)
        with closing(source.items(pages.cursor)) as given:
            for item in given:
                batch.add(item)
                self._read += 1
                if self._on_item is not None:
                    self._on_item(self._read)
                if isinstance(item, contract.Checkpoint):
                    before = pages.cursor
                    self._counts = pages.write(batch, False, self._counts, self._read, report)
                    if pages.cursor != before:
                        self._failed = 0
                    batch = Batch()
                self._look_for_stop()
                report.tell(self._read)
        self._counts = pages.write(batch, True, self._counts, self._read, report)

    def _look_for_stop(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise HeedError("the server stopped; the next sync goes on from the last page kept")

    def _end(self, report: RunningReport, error: str | None) -> None:
        self.report = report.end(self._read, error)
        _log(self._settings, self.report)


def _run(syncs: list[_Sync], stop: threading.Event) -> list[SyncReport]:
    """Run them all to their ends, always going on with the one that is due first."""
    while left := [sync for sync in syncs if sync.report is None]:
        sync = min(left, key=lambda one: one.due)
        stop.wait(max(0.0, sync.due - time.monotonic()))
        sync.go_on()
    return [sync.report for sync in syncs if sync.report is not None]


def _log(settings: SourceSettings, report: SyncReport) -> None:
    counts = {
        "added": report.added,
        "changed": report.changed,
        "removed": report.removed,
        "unchanged": report.unchanged,
        "rejected": report.rejected_count,
    }
    if report.error:
        step = "heed sync shows why"
        log.warning("sync_failed", source=settings.name, report=report.id, next_step=step, **counts)
        return
    log.info("sync_done", source=settings.name, report=report.id, **counts)
