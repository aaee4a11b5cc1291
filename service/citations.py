"""Passages as sources of an answer: numbered, with their documents, and at their place in them.

What stood in a prompt is kept with its turn; what is told of its document here is how it
stands now. Only whoever may read a document is shown a passage in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlmodel import Session, col, select

from service.database import chunks, matching
from service.errors import NotFoundError
from service.groups import EVERYBODY
from service.tables import Candidate, Document, GoldAnswer, Passage, Turn
from service.turn_events import ShownPassage

AROUND = 12
"""Passages before and after the one that was asked for."""


@dataclass(frozen=True, slots=True)
class PlacedPassage:
    """One passage of a document; `asked_for` marks the one that was asked for."""

    id: str
    heading: str
    text: str
    asked_for: bool


@dataclass(frozen=True, slots=True)
class PassagePlace:
    """A passage with the text around it, in the document's order. `more_before` and `more_after`
    say that the document goes on there. `url` is a web address or None."""

    document_id: str
    title: str
    url: str | None
    updated: datetime | None
    more_before: bool
    more_after: bool
    passages: tuple[PlacedPassage, ...]


def cited(
    opened: Session,
    prompts: Mapping[str, Sequence[Mapping[str, Any]]],
    reader_groups: Sequence[str] = EVERYBODY,
) -> dict[str, tuple[ShownPassage, ...]]:
    """The passages of each turn's prompt (rows of PromptPassage) as its asker may see them.

    Of one that is no longer there, or not for these readers, only what stood in the prompt is
    told.
    """
    numbers = {row["id"] for rows in prompts.values() for row in rows}
    known = {
        passage.id: (passage, document)
        for passage, document in _documents(opened, sorted(numbers))
        if not set(reader_groups).isdisjoint(document.readers)
    }
    return {
        turn_id: tuple(
            _shown(at, row, known.get(row["id"])) for at, row in enumerate(rows, start=1)
        )
        for turn_id, rows in prompts.items()
    }


def place_of(
    opened: Session, passage_id: str, reader_groups: Sequence[str] = EVERYBODY
) -> PassagePlace:
    """A passage at its place; NotFoundError where there is none (any more), or its document is
    not for these readers."""
    found = next(iter(_documents(opened, [passage_id])), None)
    if found is None or set(reader_groups).isdisjoint(found[1].readers):
        raise NotFoundError(
            "this passage is no longer there: its document was changed or removed, or is not for "
            "you; ask again to be answered from what stands today"
        )
    passage, document = found
    first = max(0, passage.position - AROUND)
    query = (
        select(Passage)
        .where(Passage.document_id == document.id, col(Passage.position) >= first)
        .order_by(col(Passage.position))
        .limit(2 * AROUND + 2)
    )
    rows = [row for row in opened.exec(query) if row.position <= passage.position + AROUND + 1]
    after = rows[-1].position > passage.position + AROUND
    return PassagePlace(
        document.id,
        document.title,
        web_address(document.url),
        document.updated,
        more_before=first > 0,
        more_after=after,
        passages=tuple(
            PlacedPassage(row.id, row.heading, row.text, asked_for=row.id == passage_id)
            for row in (rows[:-1] if after else rows)
        ),
    )


def web_address(url: str | None) -> str | None:
    """The address where it can be a link on a page: a source may give any text as one."""
    try:
        return url if url and urlsplit(url).scheme in ("http", "https") else None
    except ValueError:
        return None


def restricted_passages(opened: Session, prompts: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The ids of those passages in these prompts (rows of Prompt) that not everybody may read."""
    numbers = {row["id"] for prompt in prompts for row in prompt.get("passages", ())}
    return frozenset(
        passage.id
        for passage, document in _documents(opened, sorted(numbers))
        if set(EVERYBODY).isdisjoint(document.readers)
    )


def open_turns(opened: Session, turns: Mapping[str, Turn]) -> dict[str, Turn]:
    """Those of the turns, keyed as given, that were answered from what everybody may read, then and
    now.

    A passage that is gone was what its turn's `restricted` says.
    """
    kept = {number: turn for number, turn in turns.items() if not turn.restricted}
    closed = restricted_passages(opened, [turn.prompt for turn in kept.values()])
    return {
        number: turn
        for number, turn in kept.items()
        if closed.isdisjoint(row["id"] for row in turn.prompt.get("passages", ()))
    }


def open_gold_answers(opened: Session, rows: Iterable[GoldAnswer]) -> list[GoldAnswer]:
    """Those of the gold answers that correct no answer, or one of an open turn."""
    rows = list(rows)
    corrected = [row.candidate_id for row in rows if row.candidate_id]
    kept: set[str] = set()
    query = select(Candidate.id, Turn).join(Turn, col(Turn.id) == col(Candidate.turn_id))
    for some in chunks(corrected):
        found = dict(opened.exec(query.where(col(Candidate.id).in_(some))).all())
        kept |= open_turns(opened, found).keys()
    return [row for row in rows if row.candidate_id is None or row.candidate_id in kept]


def _documents(opened: Session, numbers: Sequence[str]) -> Iterable[tuple[Passage, Document]]:
    query = select(Passage, Document).join(Document, col(Document.id) == col(Passage.document_id))
    return matching(opened, query, Passage.id, numbers)


def _shown(
    number: int, row: Mapping[str, Any], known: tuple[Passage, Document] | None
) -> ShownPassage:
    if known is None:
        return ShownPassage(row["id"], row["title"], row["text"], number)
    passage, document = known
    return ShownPassage(
        row["id"],
        document.title,
        row["text"],
        number,
        passage.heading,
        document.id,
        web_address(document.url),
    )
