"""Finds the passages that a question is answered from, by full-text search.

Every word of the question counts by how rare it is, in the passage and, for less, in the section
that it was cut from. Only documents that the asker may read are searched. A passage that holds too
little of the question is none to answer from.
The index is kept by the database's triggers (migrations).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, text
from sqlmodel import Session

from rlhf_engine.records import PromptPassage
from service.groups import EVERYBODY
from service.section_words import SectionWords, section_words

LONGEST_QUESTION = 4_000
"""Characters of a question that are searched for; the rest is left out."""

MOST_WORDS = 40
"""Distinct words of a question that are searched for."""

LONGEST_TITLE = 100

LOOKED_AT = 60
"""Passages that are put in order together, at least."""

SECTION_WEIGHT = 0.25
"""What a passage's section counts of its score: a cut passage lacks the words around it."""

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


def retrieve(
    session: Session,
    question: str,
    limit: int,
    reader_groups: Sequence[str] = EVERYBODY,
    source_bar: float = 0.0,
) -> list[PromptPassage]:
    """At most `limit` passages that share words with the question, the best first.

    Only from documents that one of `reader_groups` may read, and only passages that hold
    `source_bar` (0 to 1) of the question, see section_words.held. Empty where nothing fits; any
    text is a question, whatever characters it holds.
    """
    words = content_words(question)
    found, where = _search(session, words, limit, reader_groups)
    if source_bar <= 0:
        return [passage for passage, _ in found]
    shares = where.shares()
    return [passage for passage, _ in found if shares[passage.id] >= source_bar]


def ranked(
    session: Session, words: Sequence[str], limit: int, reader_groups: Sequence[str]
) -> list[tuple[PromptPassage, float]]:
    """At most `limit` passages that hold one of the words, the best first, with their scores, at
    most 1; these are comparable within one search alone."""
    return _search(session, words, limit, reader_groups)[0]


def _search(
    session: Session, words: Sequence[str], limit: int, reader_groups: Sequence[str]
) -> tuple[list[tuple[PromptPassage, float]], SectionWords]:
    """The passages, and where the words stand in them. Their own scores and those of their
    sections are each divided by the best and added."""
    if not words or limit < 1 or not reader_groups:
        return [], section_words(session, [], [])
    found = _by_words(session, words, max(limit, LOOKED_AT), reader_groups)
    where = section_words(session, words, [passage.id for passage, _ in found])
    sections = where.section_scores()
    best = max((score for _, score in found), default=0.0) or 1.0
    best_section = max(sections.values(), default=0.0) or 1.0
    scores = {
        passage.id: (1 - SECTION_WEIGHT) * score / best
        + SECTION_WEIGHT * sections[passage.id] / best_section
        for passage, score in found
    }
    found.sort(key=lambda one: -scores[one[0].id])
    return [(passage, scores[passage.id]) for passage, _ in found[:limit]], where


def _by_words(
    session: Session, words: Sequence[str], limit: int, reader_groups: Sequence[str]
) -> list[tuple[PromptPassage, float]]:
    """The passages with the best scores of their own."""
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
