"""Writes the documents of a page: only what changed, with its passages, in the caller's
transaction. source_pairs.py writes gold answers and questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlmodel import Session, col, delete, insert, select, update

from plugins import contract
from service.database import chunks, matching
from service.passages import cut
from service.source_items import Batch
from service.sync_reports import Counts
from service.tables import Document, Passage, new_id
from service.wording import content_hash


class KnownDocument(NamedTuple):
    """What is compared of a stored document."""

    external_id: str
    id: str
    title: str
    content_hash: str


@dataclass(frozen=True)
class DocumentChanges:
    """What a page does to a source's documents: ids to delete, rows to insert and to change,
    passages to delete by id and to insert."""

    gone: list[str]
    added: list[dict[str, Any]]
    changed: list[dict[str, Any]]
    stale_passages: list[str]
    passages: list[dict[str, Any]]


def changed_documents(
    session: Session, source_id: str, batch: Batch, unlisted: Iterable[str], counts: Counts
) -> DocumentChanges:
    """Compare the page with what is stored, counting in `counts`; writes nothing.

    `unlisted` holds the external ids that are gone without having been named. Cutting texts into
    passages is the slow part of a sync and happens here, before any lock is taken.
    """
    removed = (batch.removed | set(unlisted)) - set(batch.documents)
    known = _known(session, source_id, [*batch.documents, *removed])
    gone = [known[name].id for name in sorted(removed) if name in known]
    counts.removed += len(gone)
    added: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    renamed: set[str] = set()
    for item in batch.documents.values():
        row, before = _document_row(source_id, item), known.get(item.id)
        if before is None:
            added.append(row)
        elif before.content_hash != row["content_hash"]:
            changed.append({**row, "id": before.id})
            if before.title != row["title"]:
                renamed.add(before.id)
    counts.added += len(added)
    counts.changed += len(changed)
    counts.unchanged += len(batch.documents) - len(added) - len(changed)
    stale, passages = _recut(session, changed, renamed)
    return DocumentChanges(gone, added, changed, stale, [*_passage_rows(added), *passages])


def write_documents(session: Session, changes: DocumentChanges) -> None:
    """Delete, insert and change documents and passages; the search index follows by triggers."""
    connection = session.connection()
    for some in chunks(changes.stale_passages):
        session.exec(delete(Passage).where(col(Passage.id).in_(some)))
    for some in chunks(changes.gone):
        session.exec(delete(Passage).where(col(Passage.document_id).in_(some)))
        session.exec(delete(Document).where(col(Document.id).in_(some)))
    if changes.changed:
        session.execute(update(Document), changes.changed)
    for rows in chunks(changes.added):
        connection.execute(insert(Document), [Document(**row).model_dump() for row in rows])
    for rows in chunks(changes.passages):
        connection.execute(insert(Passage), rows)


def _known(session: Session, source_id: str, names: Iterable[str]) -> Mapping[str, KnownDocument]:
    query = select(Document.external_id, Document.id, Document.title, Document.content_hash)
    query = query.where(Document.source_id == source_id)
    rows = map(KnownDocument._make, matching(session, query, Document.external_id, names))
    return {row.external_id: row for row in rows}


def _recut(
    session: Session, changed: list[dict[str, Any]], renamed: set[str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Ids of the passages that changed documents no longer have, and rows of their new ones. The
    others stay with all that belongs to them, but where the title changed, which is indexed."""
    query = select(Passage.id, Passage.document_id)
    owners = [row["id"] for row in changed]
    before = dict(matching(session, query, Passage.document_id, owners))
    rows = list(_passage_rows(changed))
    after = {row["id"] for row in rows if row["document_id"] not in renamed}
    stale = [number for number in before if number not in after]
    return stale, [row for row in rows if row["id"] not in before or row["id"] not in after]


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
