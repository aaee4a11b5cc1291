"""Writes what a sync found: only what changed, with its passages, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from sqlmodel import Session, col, delete, insert, select, update

from plugins import contract
from service.passages import cut
from service.source_items import Batch
from service.tables import Document, GoldAnswer, Passage, SyncReport, new_id
from service.wording import content_hash

CHUNK = 400
"""Rows or ids of one statement; SQLite allows no more than 32,766 values in it."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class DocumentChanges:
    """What a sync has to do to a source's documents: ids to delete, rows to insert."""

    stale: list[str]
    documents: list[dict[str, Any]]
    passages: list[dict[str, Any]]


def changed_documents(
    session: Session, source_id: str, batch: Batch, report: SyncReport
) -> DocumentChanges:
    """Compare the batch with what is stored, counting in `report`; writes nothing.

    Cutting texts into passages is the slow part of a sync and happens here, before any
    lock is taken.
    """
    query = select(Document.external_id, Document.id, Document.content_hash)
    known = {
        external_id: (number, content)
        for external_id, number, content in session.exec(
            query.where(Document.source_id == source_id)
        )
    }
    stale = [known[gone][0] for gone in _gone(known, batch.documents, batch)]
    report.removed += len(stale)
    rows: list[dict[str, Any]] = []
    for item in batch.documents.values():
        row = _document_row(source_id, item)
        number, content = known.get(item.id, (None, None))
        if content == row["content_hash"]:
            report.unchanged += 1
            continue
        if number is None:
            report.added += 1
        else:
            report.changed += 1
            stale.append(number)
            row["id"] = number
        rows.append(row)
    return DocumentChanges(stale, rows, list(_passage_rows(rows)))


def write_documents(session: Session, changes: DocumentChanges) -> None:
    """Delete and insert documents and passages; the search index follows by triggers."""
    _delete_documents(session, changes.stale)
    connection = session.connection()
    for some in _chunks(changes.documents):
        connection.execute(insert(Document), [Document(**row).model_dump() for row in some])
    for some in _chunks(changes.passages):
        connection.execute(insert(Passage), some)


def _delete_documents(session: Session, numbers: list[str]) -> None:
    for some in _chunks(numbers):
        session.exec(delete(Passage).where(col(Passage.document_id).in_(some)))
        session.exec(delete(Document).where(col(Document.id).in_(some)))


def _passage_rows(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for document in documents:
        for position, (heading, text) in enumerate(cut(document["text"], document["title"])):
            # The same words of the same document keep their id, so that a stored prompt
            # leads back to them after the document was re-cut.
            number = content_hash(document["id"], position, heading, text)[:16]
            yield {
                "id": number,
                "document_id": document["id"],
                "position": position,
                "heading": heading,
                "text": text,
            }


def write_gold(
    session: Session, source_id: str, purpose: str, batch: Batch, report: SyncReport
) -> None:
    """Bring the source's gold answers to what the batch says, counting in `report`. They take
    the source's purpose; removed ones stay as rows in the state "removed"."""
    rows = session.exec(select(GoldAnswer).where(GoldAnswer.source_id == source_id)).all()
    known = {row.external_id: row for row in rows}
    standing = {key for key, row in known.items() if row.state != "removed"}
    for gone in _gone(standing, batch.gold_pairs, batch):
        known[gone].state = "removed"
        report.removed += 1
    for item in batch.gold_pairs.values():
        row = known.get(item.id)
        content = _gold_hash(item)
        if row is not None and row.state == "accepted" and row.content_hash == content:
            report.unchanged += 1
            continue
        if row is None:
            report.added += 1
            row = GoldAnswer(
                source_id=source_id, external_id=item.id, question="", answer="", content_hash=""
            )
            session.add(row)
        else:
            report.changed += 1
        _set_gold(row, item, content)
    session.flush()
    session.exec(
        update(GoldAnswer)
        .where(col(GoldAnswer.source_id) == source_id, col(GoldAnswer.purpose) != purpose)
        .values(purpose=purpose)
    )


def _set_gold(row: GoldAnswer, item: contract.GoldPair, content: str) -> None:
    row.question, row.answer = item.question, item.answer
    row.author, row.updated = item.author, item.updated
    row.state, row.content_hash = "accepted", content


def _gone(known: Iterable[str], listed: Iterable[str], batch: Batch) -> set[str]:
    """Known ids that the source removed, or no longer lists."""
    gone = set(known) & batch.removed
    if batch.complete:
        gone |= set(known) - batch.refused
    return gone - set(listed)


def _document_row(source_id: str, item: contract.Document) -> dict[str, Any]:
    content = content_hash(
        item.title, item.text, item.url, item.updated and item.updated.isoformat(), item.readers
    )
    return {
        "id": new_id(),
        "source_id": source_id,
        "external_id": item.id,
        "title": item.title,
        "text": item.text,
        "url": item.url,
        "updated": item.updated,
        "readers": list(item.readers),
        "content_hash": content,
    }


def _gold_hash(item: contract.GoldPair) -> str:
    updated = item.updated and item.updated.isoformat()
    return content_hash(item.question, item.answer, item.author, updated)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while some := list(islice(rest, CHUNK)):
        yield some
