"""Writes the gold answers and questions of a page: only what changed, in the caller's
transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlmodel import Session, col, delete, insert, select, update

from plugins import contract
from service.database import chunks, matching
from service.source_items import Batch
from service.sync_reports import Counts
from service.tables import GoldAnswer, SourceQuestion, now
from service.wording import content_hash


def write_gold(
    session: Session,
    source_id: str,
    purpose: str,
    batch: Batch,
    unlisted: Iterable[str],
    counts: Counts,
) -> None:
    """Bring the source's gold answers to what the page says, counting in `counts`. They take
    the source's purpose; removed ones stay as rows in the state "removed". One without a date was
    updated when its question or answer last changed."""
    removed = (batch.removed | set(unlisted)) - set(batch.gold_pairs)
    query = select(
        GoldAnswer.external_id, GoldAnswer.id, GoldAnswer.state, GoldAnswer.content_hash
    ).where(GoldAnswer.source_id == source_id)
    rows = matching(session, query, GoldAnswer.external_id, [*batch.gold_pairs, *removed])
    known = {name: (number, state, content) for name, number, state, content in rows}
    standing = [known[name][0] for name in removed if name in known]
    gone = [number for number, state, _content in known.values() if state != "removed"]
    gone = sorted(set(gone) & set(standing))
    counts.removed += len(gone)
    for some in chunks(gone):
        session.exec(update(GoldAnswer).where(col(GoldAnswer.id).in_(some)).values(state="removed"))
    added, changed = [], []
    for item in batch.gold_pairs.values():
        row, before = _gold_row(item), known.get(item.id)
        if before is None:
            added.append(
                GoldAnswer(source_id=source_id, external_id=item.id, purpose=purpose, **row)
            )
        elif before[1:] != ("accepted", row["content_hash"]):
            changed.append({**row, "id": before[0]})
    counts.added += len(added)
    counts.changed += len(changed)
    counts.unchanged += len(batch.gold_pairs) - len(added) - len(changed)
    for rows_added in chunks(added):
        values = [row.model_dump() for row in rows_added]
        session.connection().execute(insert(GoldAnswer), values)
    if changed:
        _date_changes(session, changed)
        session.execute(update(GoldAnswer), changed)
    session.exec(
        update(GoldAnswer)
        .where(col(GoldAnswer.source_id) == source_id, col(GoldAnswer.purpose) != purpose)
        .values(purpose=purpose)
    )


def write_questions(
    session: Session, source_id: str, batch: Batch, unlisted: Iterable[str], counts: Counts
) -> None:
    """Bring the source's questions to what the page says, counting in `counts`."""
    removed = (batch.removed | set(unlisted)) - set(batch.questions)
    query = select(SourceQuestion.external_id, SourceQuestion.id, SourceQuestion.question)
    query = query.where(SourceQuestion.source_id == source_id)
    rows = matching(session, query, SourceQuestion.external_id, [*batch.questions, *removed])
    known = {name: (number, question) for name, number, question in rows}
    gone = [known[name][0] for name in sorted(removed) if name in known]
    counts.removed += len(gone)
    for some in chunks(gone):
        session.exec(delete(SourceQuestion).where(col(SourceQuestion.id).in_(some)))
    added, changed = [], []
    for item in batch.questions.values():
        before = known.get(item.id)
        if before is None:
            row = SourceQuestion(source_id=source_id, external_id=item.id, question=item.question)
            added.append(row.model_dump())
        elif before[1] != item.question:
            changed.append({"id": before[0], "question": item.question})
    counts.added += len(added)
    counts.changed += len(changed)
    counts.unchanged += len(batch.questions) - len(added) - len(changed)
    for some_rows in chunks(added):
        session.connection().execute(insert(SourceQuestion), some_rows)
    if changed:
        session.execute(update(SourceQuestion), changed)


def _date_changes(session: Session, changed: list[dict[str, Any]]) -> None:
    """Date those of the changed rows that bring no date: as they were, or now where their question
    or answer is another."""
    undated = {row["id"]: row for row in changed if row["updated"] is None}
    query = select(GoldAnswer.id, GoldAnswer.question, GoldAnswer.answer, GoldAnswer.updated)
    for number, question, answer, updated in matching(session, query, GoldAnswer.id, undated):
        row = undated[number]
        same = (question, answer) == (row["question"], row["answer"])
        row["updated"] = updated if same else now()


def _gold_row(item: contract.GoldPair) -> dict[str, Any]:
    updated = item.updated and item.updated.isoformat()
    return {
        "question": item.question,
        "answer": item.answer,
        "author": item.author,
        "updated": item.updated,
        "state": "accepted",
        "content_hash": content_hash(item.question, item.answer, item.author, updated),
    }
