"""One page of a sync, written in one transaction: documents, gold answers, questions, removals,
what was rejected, and the cursor to go on with.

The end of a complete sync removes what none of its pages listed. What earlier pages listed is
kept in rows until then (ListedItem), so that this holds when the process is killed in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, delete, select, update

from plugins import contract
from service.database import changed_rows, chunks, insert_unless_there, session
from service.errors import ConflictError
from service.settings import SourceSettings
from service.source_items import Batch
from service.source_pairs import write_gold, write_questions
from service.source_writing import changed_documents, write_documents
from service.sync_reports import Counts, RunningReport
from service.tables import (
    DataSource,
    Document,
    GoldAnswer,
    ListedItem,
    SourceQuestion,
    now,
)
from service.wording import content_hash

_UNUSABLE = ""


@dataclass(frozen=True)
class Unlisted:
    """External ids that a complete sync no longer listed, by kind."""

    documents: set[str] = field(default_factory=set)
    gold_pairs: set[str] = field(default_factory=set)
    questions: set[str] = field(default_factory=set)


class Pages:
    """The pages of one source: where the last sync came to, and what is written next."""

    def __init__(self, engine: Engine, settings: SourceSettings) -> None:
        self._engine, self._settings = engine, settings
        with session(engine) as opened:
            insert_unless_there(opened, DataSource(name=settings.name, plugin=settings.plugin))
            source = opened.exec(select(DataSource).where(DataSource.name == settings.name)).one()
        self.source_id = source.id
        self._generation = source.generation
        self._options_hash = _options_hash(settings)
        same = source.options_hash == self._options_hash
        # A cursor made with other options points into another place.
        self.cursor: contract.Cursor = source.cursor if same else {}
        self._unfinished = same and source.unfinished

    def write(
        self, batch: Batch, ended: bool, counts: Counts, read: int, report: RunningReport
    ) -> Counts:
        """Write a page, and answer the sum of `counts` and what it did.

        ConflictError where another sync of this source wrote one meanwhile, so that what was
        compared with before the lock is still what is stored.
        """
        page = Counts()
        page.note_rejected(batch)
        with session(self._engine) as opened:
            unlisted = self._unlisted(opened, batch)
            changes = changed_documents(opened, self.source_id, batch, unlisted.documents, page)
            self._take(opened, batch.cursor, ended)
            write_documents(opened, changes)
            purpose = self._settings.purpose
            write_gold(opened, self.source_id, purpose, batch, unlisted.gold_pairs, page)
            write_questions(opened, self.source_id, batch, unlisted.questions, page)
            if ended or not self._unfinished:
                _forget_listed(opened, self.source_id)
            if not ended:
                _note_listed(opened, self.source_id, batch)
            total = counts.plus(page)
            report.count(opened, read, total)
        self._generation += 1
        self._unfinished = not ended
        self.cursor = batch.cursor
        return total

    def _unlisted(self, opened: Session, batch: Batch) -> Unlisted:
        if not batch.complete:
            return Unlisted()
        listed = _listed(opened, self.source_id) if self._unfinished else {}
        kept = batch.refused | listed.get(_UNUSABLE, set())

        def gone(table: Any, kind: str, here: Iterable[str], *which: Any) -> set[str]:
            known = select(table.external_id).where(table.source_id == self.source_id, *which)
            return set(opened.exec(known)) - kept - listed.get(kind, set()) - set(here)

        return Unlisted(
            gone(Document, "document", batch.documents),
            gone(GoldAnswer, "gold_pair", batch.gold_pairs, GoldAnswer.state != "removed"),
            gone(SourceQuestion, "question", batch.questions),
        )

    def _take(self, opened: Session, cursor: contract.Cursor, ended: bool) -> None:
        """Lock the source for this transaction."""
        statement = (
            update(DataSource)
            .where(
                col(DataSource.id) == self.source_id,
                col(DataSource.generation) == self._generation,
            )
            .values(
                plugin=self._settings.plugin,
                purpose=self._settings.purpose,
                options_hash=self._options_hash,
                cursor=dict(cursor),
                unfinished=not ended,
                generation=self._generation + 1,
                synced_at=now(),
            )
        )
        if changed_rows(opened.connection().execute(statement)) != 1:
            raise ConflictError(
                f"another sync of source {self._settings.name} went on meanwhile; this one ended "
                "and changed nothing more, the other's result stands"
            )


def clear_source(opened: Session, source: DataSource, counts: Counts) -> None:
    """Remove all that a source has brought, and forget where its sync came to."""
    everything = Unlisted(
        *(
            set(opened.exec(select(table.external_id).where(table.source_id == source.id)))
            for table in (Document, GoldAnswer, SourceQuestion)
        )
    )
    nothing = Batch()
    changes = changed_documents(opened, source.id, nothing, everything.documents, counts)
    write_documents(opened, changes)
    write_gold(opened, source.id, source.purpose, nothing, everything.gold_pairs, counts)
    write_questions(opened, source.id, nothing, everything.questions, counts)
    _forget_listed(opened, source.id)
    forgotten = {"cursor": {}, "options_hash": "", "unfinished": False}
    statement = update(DataSource).where(col(DataSource.id) == source.id)
    opened.connection().execute(
        statement.values(generation=col(DataSource.generation) + 1, **forgotten)
    )


def _listed(opened: Session, source_id: str) -> Mapping[str, set[str]]:
    query = select(ListedItem.kind, ListedItem.external_id)
    listed: dict[str, set[str]] = {}
    for kind, name in opened.exec(query.where(ListedItem.source_id == source_id)):
        listed.setdefault(kind, set()).add(name)
    return listed


def _note_listed(opened: Session, source_id: str, batch: Batch) -> None:
    kinds: dict[str, Iterable[str]] = {
        "document": batch.documents,
        "gold_pair": batch.gold_pairs,
        "question": batch.questions,
        _UNUSABLE: batch.refused,
    }
    rows = [
        {"source_id": source_id, "kind": kind, "external_id": name}
        for kind, names in kinds.items()
        for name in names
    ]
    dialect = postgresql if opened.get_bind().dialect.name == "postgresql" else sqlite
    for some in chunks(rows):
        statement = dialect.insert(ListedItem.__table__)  # type: ignore[attr-defined]
        opened.connection().execute(statement.on_conflict_do_nothing(), some)


def _forget_listed(opened: Session, source_id: str) -> None:
    opened.exec(delete(ListedItem).where(col(ListedItem.source_id) == source_id))


def _options_hash(settings: SourceSettings) -> str:
    return content_hash(settings.plugin, repr(sorted(settings.options.items())))
