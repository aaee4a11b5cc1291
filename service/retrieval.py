"""Finds the passages that a question is answered from, by full-text search.

Every word of the question counts by how rare it is. Only documents that the asker may
read are searched. The index is kept by the database's triggers (migrations).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, text
from sqlmodel import Session

from rlhf_engine.records import PromptPassage

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

_SQLITE = """
    SELECT passage.id, document.title, passage.heading, passage.text
    FROM passage_search
    JOIN passage_search_row ON passage_search_row.number = passage_search.rowid
    JOIN passage ON passage.id = passage_search_row.passage_id
    JOIN document ON document.id = passage.document_id
    WHERE passage_search MATCH :words
    AND EXISTS (SELECT 1 FROM json_each(document.readers) AS reader WHERE reader.value IN :groups)
    ORDER BY bm25(passage_search, 3.0, 1.5, 1.0), passage.id
    LIMIT :limit
"""

# PostgreSQL's own rank knows nothing of how rare a word is, so each word is ranked alone and
# weighed by its inverse document frequency, as in BM25.
_POSTGRESQL = """
    WITH matched AS (
        SELECT passage_id, ts_rank('{0, 0, 0.6, 1}', words, query, 1) AS rank,
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
    SELECT passage.id, document.title, passage.heading, passage.text
    FROM ranked
    JOIN passage ON passage.id = ranked.passage_id
    JOIN document ON document.id = passage.document_id
    WHERE EXISTS (
        SELECT 1 FROM json_array_elements_text(document.readers) AS reader
        WHERE reader IN :groups
    )
    ORDER BY score DESC, passage.id
    LIMIT :limit
"""


def retrieve(
    session: Session,
    question: str,
    limit: int,
    reader_groups: Sequence[str] = ("everyone",),
) -> list[PromptPassage]:
    """At most `limit` passages that share words with the question, the best first.

    Only from documents that one of `reader_groups` may read. Empty where nothing fits;
    any text is a question, whatever characters it holds.
    """
    words = content_words(question)
    if not words or limit < 1 or not reader_groups:
        return []
    given: dict[str, Any] = {"limit": limit, "groups": list(reader_groups)}
    if session.get_bind().dialect.name == "postgresql":
        statement = text(_POSTGRESQL.replace("::", r"\:\:"))
        given |= {"words": " ".join(words)}
    else:
        statement = text(_SQLITE)
        quoted = " OR ".join(f'"{word}"' for word in words)
        given |= {"words": quoted}
    statement = statement.bindparams(bindparam("groups", expanding=True))
    found = session.connection().execute(statement, given)
    return [
        PromptPassage(number, _title(title, heading), body)
        for number, title, heading, body in found
    ]


def content_words(question: str) -> list[str]:
    """The distinct words of a question that are worth searching for, in order.

    Letters and digits only, in lower case, so that none is an operator of a search. All
    of them where the question holds nothing but everyday words.
    """
    whole = _CONTRACTION.sub("", question[:LONGEST_QUESTION].casefold())
    found = re.findall(r"[^\W_]+", whole)
    words = list(dict.fromkeys(found))
    return ([word for word in words if word not in _STOP_WORDS] or words)[:MOST_WORDS]


def _title(title: str, heading: str) -> str:
    shown = f"{title}: {heading}" if heading else title
    return shown if len(shown) <= LONGEST_TITLE else shown[: LONGEST_TITLE - 1] + "…"
