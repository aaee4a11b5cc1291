"""Pages of long lists: each goes on after the last row of the one before, by moment and id."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlmodel import col, tuple_

from service.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: the moment and id of its last row."""

    moment: datetime
    id: str

    def __str__(self) -> str:
        return f"{self.moment.astimezone(UTC).isoformat()}~{self.id}"


def place(text: str | None) -> Place | None:
    """The place that a page's `next` named; InvalidInputError where it is none."""
    if text is None:
        return None
    moment, _, number = text.partition("~")
    try:
        when = datetime.fromisoformat(moment)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None or not number:
        raise InvalidInputError(f"after is {text[:80]!r}; give the `next` of an earlier answer")
    return Place(when, number)


def newest_first(query: Any, kind: Any, after: Place | None, limit: int) -> Any:
    """The query's rows of the table `kind`, the newest first, at most `limit` after a place."""
    key = tuple_(col(kind.created_at), col(kind.id))
    if after is not None:
        query = query.where(key < (after.moment, after.id))
    return query.order_by(col(kind.created_at).desc(), col(kind.id).desc()).limit(limit)


def oldest_first(query: Any, kind: Any, after: Place | None, limit: int) -> Any:
    """The same, the oldest first."""
    key = tuple_(col(kind.created_at), col(kind.id))
    if after is not None:
        query = query.where(key > (after.moment, after.id))
    return query.order_by(col(kind.created_at), col(kind.id)).limit(limit)
