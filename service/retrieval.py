"""Finds the passages that a question is answered from, by full-text search.

Every word of the question counts by how rare it is. Only documents that the asker may
read are searched. A passage that holds too little of the question is none to answer from.
The index is kept by the database's triggers (migrations).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, text
from sqlmodel import Session

from rlhf_engine.records import PromptPassage
from service.groups import EVERYBODY

LONGEST_QUESTION = 4_000
"""Characters of a question that are searched for; the rest is left out."""

MOST_WORDS = 40
"""Distinct words of a question that are searched for."""

LONGEST_TITLE = 100

# The "s" of "what's" would be searched for as a word, and a rare one.
_CONTRACTION = re.compile(r"(?<=\w)(?:n['’]t|['’](?:s|m|d|re|ve|ll))\b")

_EVERYDAY_WORDS = """
    a an and any are as at be been but by can could did do does for from had has have hello how i if
    in into is it its me my of on or our please should so thank thanks that the their them there
    these they this those to was we were what which who will with would you your
"""
_STOP_WORDS = frozenset(_EVERYDAY_WORDS.split())

_READABLE = {
    "sqlite": """EXISTS (
        SELECT 1 FROM json_each(document.readers) AS reader WHERE reader.value IN :groups
    )""",
    "postgresql": """EXISTS (
        SELECT 1 FROM json_array_elements_text(document.readers) AS reader
        WHERE reader IN :groups
    )""",
}

_SQLITE = """
    SELECT passage.id, document.title, passage.heading, passage.text,
        -bm25(passage_search) AS score
    FROM passage_search
    JOIN passage_search_row ON passage_search_row.number = passage_search.rowid
    JOIN passage ON passage.id = passage_search_row.passage_id
    JOIN document ON document.id = passage.document_id
    WHERE passage_search MATCH :words
    AND {readable}
    ORDER BY score DESC, passage.id
    LIMIT :limit
"""

# PostgreSQL's own rank knows nothing of how rare a word is, so each word is ranked alone and
# weighed by its inverse document frequency, as in BM25.
_POSTGRESQL = """
    WITH matched AS (
        SELECT passage_id, ts_rank('{{0, 0, 0.6, 1}}', words, query, 1) AS rank,
            count(*) OVER (PARTITION BY lexeme) AS found
        FROM unnest(to_tsvector('english', :words))
        CROSS JOIN LATERAL plainto_tsquery('simple', lexeme) AS query
        JOIN passage_search ON words @@ query
    ),
    ranked AS (
        SELECT passage_id, sum(rank * ln(1 + (total - found + 0.5) / (found + 0.5))) AS score
        FROM matched, (SELECT count(*)::float AS total FROM passage_search) AS counted
        GROUP BY passage_id
    )
    SELECT passage.id, document.title, passage.heading, passage.text, score
    FROM ranked
    JOIN passage ON passage.id = ranked.passage_id
    JOIN document ON document.id = passage.document_id
    WHERE {readable}
    ORDER BY score DESC, passage.id
    LIMIT :limit
"""

_TOTAL_SQLITE = "SELECT count(*) FROM passage_search_row"
_COUNT_SQLITE = "SELECT count(*) FROM passage_search WHERE passage_search MATCH :word"
_HOLDING_SQLITE = """
    SELECT passage_id FROM passage_search_row
    JOIN passage_search ON passage_search.rowid = passage_search_row.number
    WHERE passage_search MATCH :word AND passage_id IN :passages
"""
_TOTAL_POSTGRESQL = "SELECT count(*) FROM passage_search"
_COUNT_POSTGRESQL = """
    SELECT CASE WHEN numnode(plainto_tsquery('english', :word)) > 0 THEN (
        SELECT count(*) FROM passage_search WHERE words @@ plainto_tsquery('english', :word)
    ) END
"""
_HOLDING_POSTGRESQL = """
    SELECT passage_id FROM passage_search
    WHERE passage_id IN :passages AND words @@ plainto_tsquery('english', :word)
"""


def retrieve(
    session: Session,
    question: str,
    limit: int,
    reader_groups: Sequence[str] = EVERYBODY,
    source_bar: float = 0.0,
) -> list[PromptPassage]:
    """At most `limit` passages that share words with the question, the best first.

    Only from documents that one of `reader_groups` may read, and only passages that hold
    `source_bar` (0 to 1) of the question, see `held`. Empty where nothing fits; any text is a
    question, whatever characters it holds.
    """
    words = content_words(question)
    found = [passage for passage, _ in ranked(session, words, limit, reader_groups)]
    if source_bar <= 0 or not found:
        return found
    shares = held(session, words, [passage.id for passage in found])
    return [passage for passage in found if shares[passage.id] >= source_bar]


def ranked(
    session: Session, words: Sequence[str], limit: int, reader_groups: Sequence[str]
) -> list[tuple[PromptPassage, float]]:
    """At most `limit` passages that hold one of the words, the best first, with their scores;
    these are comparable within one search alone."""
    if not words or limit < 1 or not reader_groups:
        return []
    given: dict[str, Any] = {"limit": limit, "groups": list(reader_groups)}
    if session.get_bind().dialect.name == "postgresql":
        written = _POSTGRESQL.replace("::", r"\:\:")
        given |= {"words": " ".join(words)}
    else:
        written = _SQLITE
        quoted = " OR ".join(f'"{word}"' for word in words)
        given |= {"words": quoted}
    statement = text(written.format(readable=readable_by(session)))
    statement = statement.bindparams(bindparam("groups", expanding=True))
    return [
        (PromptPassage(number, shown_title(title, heading), body), float(score))
        for number, title, heading, body, score in session.connection().execute(statement, given)
    ]


def readable_by(session: Session) -> str:
    """The condition that one of the bound `groups` may read `document`."""
    return _READABLE[session.get_bind().dialect.name]


def held(session: Session, words: Sequence[str], passage_ids: Sequence[str]) -> dict[str, float]:
    """How much of a question each passage holds: of the rarities of its `words` (logarithms, as
    in BM25), the share of those that stand in the passage or its title; 0 to 1.

    A word that no passage holds is the rarest, so that a question about something else than
    the documents scores low though it shares an everyday word with them.
    """
    postgresql = session.get_bind().dialect.name == "postgresql"
    counting = text(_COUNT_POSTGRESQL if postgresql else _COUNT_SQLITE)
    finding = text(_HOLDING_POSTGRESQL if postgresql else _HOLDING_SQLITE)
    finding = finding.bindparams(bindparam("passages", expanding=True))
    connection = session.connection()
    total = connection.execute(text(_TOTAL_POSTGRESQL if postgresql else _TOTAL_SQLITE)).scalar()
    weights, holding = 0.0, dict.fromkeys(passage_ids, 0.0)
    for word in words:
        term = word if postgresql else f'"{word}"'
        count = connection.execute(counting, {"word": term}).scalar()
        if count is None:  # PostgreSQL takes it for a stop word
            continue
        weight = math.log(1 + ((total or 0) - count + 0.5) / (count + 0.5))
        weights += weight
        given = {"word": term, "passages": list(passage_ids)}
        for (number,) in connection.execute(finding, given):
            holding[number] += weight
    return {number: share / weights if weights else 0.0 for number, share in holding.items()}


def content_words(question: str) -> list[str]:
    """The distinct words of a question that are worth searching for, in order.

    Letters and digits only, in lower case, so that none is an operator of a search. All
    of them where the question holds nothing but everyday words.
    """
    whole = _CONTRACTION.sub("", question[:LONGEST_QUESTION].casefold())
    found = re.findall(r"[^\W_]+", whole)
    words = list(dict.fromkeys(found))
    return ([word for word in words if word not in _STOP_WORDS] or words)[:MOST_WORDS]


def shown_title(title: str, heading: str) -> str:
    """What a passage is called in prompts and on the page."""
    shown = f"{title}: {heading}" if heading else title
    return shown if len(shown) <= LONGEST_TITLE else shown[: LONGEST_TITLE - 1] + "…"
