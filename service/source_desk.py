"""What operators do with data sources: look at them, try them, sync them now.

Reading a source is the plugin's and may take long or hang, so each reading has a thread of its
own. sync.py does the sync.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import structlog
from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

from plugins import contract
from service.errors import ConflictError, HeedError, NotFoundError
from service.plugin_host import PluginHost
from service.settings import SourceSettings
from service.source_items import Batch
from service.sync import sync_source
from service.sync_pages import clear_source
from service.sync_reports import Counts
from service.tables import DataSource, Document, GoldAnswer, SourceQuestion, SyncReport

PREVIEWED = 5
MOST_READ = 200
"""Items read for a preview; a source that rejects all of them shows none."""
LONGEST_EXCERPT = 600
LONGEST_LOOK_S = 20.0

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Preview:
    """What a source brings, not stored: its first records, what was rejected before them, and
    why it cannot be read, if it cannot."""

    records: list[contract.Document | contract.GoldPair] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a source has brought, and how its last syncs went, the newest first."""

    source_id: str | None = None
    documents: int = 0
    gold_answers: int = 0
    questions: int = 0
    reports: list[SyncReport] = field(default_factory=list)


class SourceDesk:
    """Holds the plugins for the pages, and the syncs that people asked for and that go on."""

    def __init__(self, load: Callable[[], PluginHost] = PluginHost.load) -> None:
        self._load = load
        self._loaded: PluginHost | None = None
        self._syncing: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def host(self) -> PluginHost:
        """The plugins, loaded at the first call."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def close(self) -> None:
        """End the syncs at their next item, and wait until what the plugins did is kept."""
        self._stop.set()
        if self._loaded is not None:
            self._loaded.flush()

    def syncing(self, name: str) -> int | None:
        """How many items the sync of this source has read so far; None where none goes on that
        was asked for here."""
        return self._syncing.get(name)

    def sync_now(self, database: Engine, settings: SourceSettings) -> None:
        """Begin to sync a source; ConflictError where it is being synced."""
        with self._lock:
            if settings.name in self._syncing:
                raise ConflictError(f"source {settings.name!r} is being synced; wait for its end")
            self._syncing[settings.name] = 0
        work = threading.Thread(
            target=self._sync, args=(database, settings), name=f"sync-{settings.name}", daemon=True
        )
        work.start()

    def preview(self, settings: SourceSettings) -> Preview:
        """Read the first records of a source, at most LONGEST_LOOK_S seconds long."""
        host = self.host()
        try:
            return _within(LONGEST_LOOK_S, lambda: _looked(host, settings))
        except HeedError as error:
            return Preview(error=str(error))

    def _sync(self, database: Engine, settings: SourceSettings) -> None:
        def told(count: int) -> None:
            self._syncing[settings.name] = count

        try:
            sync_source(database, self.host(), settings, told, self._stop)
        except HeedError as error:
            log.warning("sync_failed", source=settings.name, error=str(error), next="sync again")
        finally:
            with self._lock:
                self._syncing.pop(settings.name, None)


def holdings(opened: Session, name: str, reports: int) -> Holdings:
    """What the source of this name has brought, with its newest reports."""
    source = opened.exec(select(DataSource).where(DataSource.name == name)).first()
    if source is None:
        return Holdings()
    newest = select(SyncReport).where(SyncReport.source_id == source.id)
    newest = newest.order_by(col(SyncReport.created_at).desc()).limit(reports)
    gold = (GoldAnswer.source_id == source.id, GoldAnswer.state == "accepted")
    return Holdings(
        source.id,
        opened.exec(select(func.count()).where(Document.source_id == source.id)).one(),
        opened.exec(select(func.count()).where(*gold)).one(),
        opened.exec(select(func.count()).where(SourceQuestion.source_id == source.id)).one(),
        list(opened.exec(newest).all()),
    )


def left_behind(opened: Session, in_use: set[str]) -> list[str]:
    """Names of sources that are no longer in use, and whose documents or gold answers are."""
    held = (
        select(Document.id).where(Document.source_id == DataSource.id).exists()
        | select(GoldAnswer.id)
        .where(GoldAnswer.source_id == DataSource.id, GoldAnswer.state == "accepted")
        .exists()
        | select(SourceQuestion.id).where(SourceQuestion.source_id == DataSource.id).exists()
    )
    names = opened.exec(select(DataSource.name).where(held).order_by(col(DataSource.name)))
    return [name for name in names if name not in in_use]


def clear(opened: Session, name: str) -> None:
    """Remove what a source that is no longer in use has brought; NotFoundError where it is not
    known."""
    source = opened.exec(select(DataSource).where(DataSource.name == name)).first()
    if source is None:
        raise NotFoundError(f"there is no source {name!r}")
    counts = Counts()
    clear_source(opened, source, counts)
    moment = datetime.now(UTC)
    report = SyncReport(source_id=source.id, started_at=moment, finished_at=moment)
    report.removed = counts.removed
    opened.add(report)
    opened.flush()
    log.info("source_cleared", source=name, removed=counts.removed)


def _looked(host: PluginHost, settings: SourceSettings) -> Preview:
    batch = Batch()
    for count, item in enumerate(host.data_source(settings).items({}), start=1):
        batch.add(item)
        found = len(batch.documents) + len(batch.gold_pairs) + len(batch.questions)
        if found >= PREVIEWED or count >= MOST_READ:
            break
    records: list[contract.Document | contract.GoldPair] = list(batch.documents.values())
    records += batch.gold_pairs.values()
    return Preview(records[:PREVIEWED], batch.rejected)


def _within(seconds: float, work: Callable[[], Result]) -> Result:
    """What `work` returns or raises; HeedError where it takes longer (it is then left alone)."""
    answers: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            answers.put((None, error))

    threading.Thread(target=run, name="source-preview", daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise HeedError(
            f"the source did not answer within {seconds:.0f} seconds; check that it can be "
            "reached from the server"
        ) from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
