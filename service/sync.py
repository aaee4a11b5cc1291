"""Brings what the data sources hold into the database.

A source is read to its end first; then one transaction writes what changed, re-cuts
and re-indexes the changed documents, removes what is gone, and stores the cursor. A
source that fails changes nothing and stops no other. Loading plugins and keeping
their faults apart is plugin_host.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog
from sqlalchemy import ColumnElement, Engine
from sqlmodel import Session, col, select, update

from plugins import contract
from service.database import changed_rows, insert_unless_there, session
from service.errors import ConflictError, HeedError
from service.plugin_host import PluginHost
from service.plugin_settings import sources_in_use
from service.settings import Settings, SourceSettings
from service.source_items import Batch
from service.source_writing import changed_documents, write_documents, write_gold
from service.tables import DataSource, SyncReport, now
from service.wording import content_hash

log = structlog.get_logger(__name__)

OnItem = Callable[[int], None]
"""Called with the number of items read so far."""


def sync_all(
    engine: Engine, host: PluginHost, settings: Settings, on_item: OnItem | None = None
) -> list[SyncReport]:
    """Sync every source in use, one after another; one report each."""
    with session(engine) as opened:
        sources = [source.settings for source in sources_in_use(opened, settings)]
    return [sync_source(engine, host, source, on_item) for source in sources]


def sync_source(
    engine: Engine,
    host: PluginHost,
    settings: SourceSettings,
    on_item: OnItem | None = None,
) -> SyncReport:
    """Sync one source.

    A source that cannot be read raises nothing: the report's `error` says why, and
    nothing but the report was written. DatabaseError where the database fails.
    """
    with session(engine) as opened:
        source = _known_source(opened, settings)
    report = SyncReport(source_id=source.id, started_at=now())
    try:
        batch = _read(host, settings, source, on_item)
        with session(engine) as opened:
            changes = changed_documents(opened, source.id, batch, report)
            _take(opened, source, settings, batch.cursor)
            write_documents(opened, changes)
            write_gold(opened, source.id, settings.purpose, batch, report)
            _finish(opened, report, batch)
    except HeedError as error:
        report = SyncReport(source_id=source.id, started_at=report.started_at, error=str(error))
        with session(engine) as opened:
            _finish(opened, report, None)
    _log(settings, report)
    return report


def _known_source(opened: Session, settings: SourceSettings) -> DataSource:
    insert_unless_there(opened, DataSource(name=settings.name, plugin=settings.plugin))
    return opened.exec(select(DataSource).where(DataSource.name == settings.name)).one()


def _read(
    host: PluginHost, settings: SourceSettings, source: DataSource, on_item: OnItem | None
) -> Batch:
    same = source.options_hash == _options_hash(settings)
    # A cursor made with other options points into another place.
    cursor: contract.Cursor = source.cursor if same else {}
    batch = Batch()
    for count, item in enumerate(host.data_source(settings).items(cursor), start=1):
        batch.add(item)
        if on_item is not None:
            on_item(count)
    return batch


def _take(
    opened: Session, source: DataSource, settings: SourceSettings, cursor: contract.Cursor
) -> None:
    """Lock the source for this transaction; ConflictError where another sync overtook us, so
    that what was compared with before the lock is still what is stored."""
    statement = (
        update(DataSource)
        .where(col(DataSource.id) == source.id, _unchanged(source.synced_at))
        .values(
            plugin=settings.plugin,
            purpose=settings.purpose,
            options_hash=_options_hash(settings),
            cursor=dict(cursor),
            synced_at=now(),
        )
    )
    if changed_rows(opened.connection().execute(statement)) != 1:
        raise ConflictError(
            f"another sync of source {settings.name} finished meanwhile; nothing was changed, "
            "its result stands"
        )


def _unchanged(synced_at: datetime | None) -> ColumnElement[bool]:
    if synced_at is None:
        return col(DataSource.synced_at).is_(None)
    return col(DataSource.synced_at) == synced_at


def _finish(opened: Session, report: SyncReport, batch: Batch | None) -> None:
    if batch is not None:
        report.rejected = [{"where": where, "reason": reason} for where, reason in batch.rejected]
    report.finished_at = now()
    opened.add(report)


def _options_hash(settings: SourceSettings) -> str:
    return content_hash(settings.plugin, repr(sorted(settings.options.items())))


def _log(settings: SourceSettings, report: SyncReport) -> None:
    if report.error:
        log.warning(
            "sync_failed", source=settings.name, report=report.id, next_step="heed sync shows why"
        )
        return
    log.info(
        "sync_done",
        source=settings.name,
        report=report.id,
        added=report.added,
        changed=report.changed,
        removed=report.removed,
        unchanged=report.unchanged,
        rejected=len(report.rejected),
    )
