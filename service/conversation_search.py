"""Search in one's own conversations: titles, questions and answers, the newest first.

The index is kept by the database's triggers (migrations). Every word must stand in the same
turn; a word may go on, so that a search finds what it is about while it is typed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlmodel import Session, col, select

from service.retrieval import content_words
from service.tables import Candidate, Conversation, Turn

LONGEST_EXCERPT = 120
BATCH = 200
MOST_BATCHES = 5
"""Rows that are looked through for one page; a conversation may have many of them."""

_SQLITE = """
    SELECT conversation_search.rowid, place.conversation_id, place.turn_id
    FROM conversation_search
    JOIN conversation_search_row AS place ON place.number = conversation_search.rowid
    WHERE conversation_search MATCH :query AND conversation_search.rowid < :before
    ORDER BY conversation_search.rowid DESC LIMIT :limit
"""
_POSTGRESQL = r"""
    SELECT number, conversation_id, turn_id FROM conversation_search
    WHERE words @@ (CAST(:owner AS tsquery) && to_tsquery('english', :query)) AND number < :before
    ORDER BY number DESC LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class Hit:
    """A conversation where the words stand. `turn_id` is the newest turn that holds them, None
    where it is only the title; `excerpt` what stands around them there."""

    conversation: Conversation
    turn_id: str | None
    excerpt: str


@dataclass(frozen=True, slots=True)
class Hits:
    """Some hits, and where the next ones begin; None after the last."""

    rows: list[Hit]
    next: int | None


def search(opened: Session, person_id: str, words: str, before: int | None, limit: int) -> Hits:
    """Where the words stand in this person's conversations; one hit a conversation and page.

    Nothing for words that hold neither letter nor digit.
    """
    terms = content_words(words)
    place = before if before is not None else 2**62
    found: dict[str, Hit] = {}
    for _batch in range(MOST_BATCHES if terms else 0):
        rows = _rows(opened, person_id, terms, place)
        for number, conversation_id, turn_id in rows:
            if len(found) == limit:
                return Hits(list(found.values()), place)
            place = number
            known = conversation_id in found
            row = None if known else opened.get(Conversation, conversation_id)
            if row is not None and row.deleted_at is None and row.person_id == person_id:
                found[conversation_id] = Hit(row, turn_id, _excerpt(opened, row, turn_id, terms))
        if len(rows) < BATCH:
            return Hits(list(found.values()), None)
    return Hits(list(found.values()), place if terms else None)


def _rows(opened: Session, person_id: str, terms: list[str], before: int) -> list[Any]:
    given: dict[str, Any] = {"before": before, "limit": BATCH}
    if opened.get_bind().dialect.name == "postgresql":
        statement = text(_POSTGRESQL)
        given |= {"owner": f"'={person_id}'", "query": " & ".join(f"{w}:*" for w in terms)}
    else:
        statement = text(_SQLITE)
        prefixes = " AND ".join(f'"{word}"*' for word in terms)
        given |= {"query": f'owner : "{person_id}" AND words : ({prefixes})'}
    return list(opened.connection().execute(statement, given))


def _excerpt(
    opened: Session, conversation: Conversation, turn_id: str | None, terms: list[str]
) -> str:
    """What stands around the first of the words, in the turn's question or else its answers."""
    turn = opened.get(Turn, turn_id) if turn_id else None
    if turn is None:
        return conversation.title
    answers = opened.exec(
        select(Candidate.text).where(Candidate.turn_id == turn.id).order_by(col(Candidate.side))
    ).all()
    sought = re.compile("|".join(rf"\b{re.escape(word)}" for word in terms), re.IGNORECASE)
    for told in (turn.question, *answers):
        match = sought.search(told)
        if match:
            return _around(told, match.start())
    # The index knows other forms of a word too.
    return _around(turn.question, 0)


def _around(told: str, at: int) -> str:
    start = max(0, at - LONGEST_EXCERPT // 3)
    piece = " ".join(told[start : start + LONGEST_EXCERPT].split())
    return f"{'…' if start else ''}{piece}{'…' if start + LONGEST_EXCERPT < len(told) else ''}"
