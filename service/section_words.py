"""Where the words of a question stand: how much of it a passage holds, and its section.

Words are weighed by rarity, as in BM25. A section is the passages of a document under one heading.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import BindParameter, bindparam, text
from sqlmodel import Session

_TOTAL_SQLITE = "SELECT count(*) FROM passage_search_row"
_COUNT_SQLITE = "SELECT count(*) FROM passage_search WHERE passage_search MATCH :word"
_HOLDING_SQLITE = """
    SELECT passage.id, passage.document_id, passage.heading FROM passage_search
    JOIN passage_search_row ON passage_search_row.number = passage_search.rowid
    JOIN passage ON passage.id = passage_search_row.passage_id
    WHERE passage_search MATCH :word AND passage.document_id IN :documents
"""
_TOTAL_POSTGRESQL = "SELECT count(*) FROM passage_search"
_COUNT_POSTGRESQL = """
    SELECT CASE WHEN numnode(plainto_tsquery('english', :word)) > 0 THEN (
        SELECT count(*) FROM passage_search WHERE words @@ plainto_tsquery('english', :word)
    ) END
"""
_HOLDING_POSTGRESQL = """
    SELECT passage.id, passage.document_id, passage.heading FROM passage
    JOIN passage_search ON passage_search.passage_id = passage.id
    WHERE passage.document_id IN :documents AND words @@ plainto_tsquery('english', :word)
"""
_PASSAGES = "SELECT id, document_id, heading FROM passage WHERE id IN :passages"
_SIZES = """
    SELECT document_id, heading, count(*) FROM passage WHERE document_id IN :documents
    GROUP BY document_id, heading
"""

Section = tuple[str, str]
"""A document's id and a heading in it."""


@dataclass(frozen=True, slots=True)
class SectionWords:
    """Which words of a question stand in some passages, and in the sections around them."""

    rarities: Mapping[str, float]
    """Of each word: the logarithm that BM25 weighs it by."""
    holders: Mapping[str, Collection[str]]
    """The passages that hold each word, those around included."""
    counts: Mapping[str, Mapping[Section, int]]
    """How many passages of each section hold each word."""
    sections: Mapping[str, Section]
    """The section of each of the passages."""
    sizes: Mapping[Section, int]
    """How many passages each section has."""

    def shares(self) -> dict[str, float]:
        """How much of the question each passage holds, see `held`."""
        total = sum(self.rarities.values())
        return {
            passage: sum(
                rarity for word, rarity in self.rarities.items() if passage in self.holders[word]
            )
            / (total or 1.0)
            for passage in self.sections
        }

    def section_scores(self, k1: float = 1.2, b: float = 0.75) -> dict[str, float]:
        """BM25 of each passage's section, as if a section's passages were its words: one that
        holds a word counts once, and the mean length is that of these sections.

        Robertson and Zaragoza (2009), "The Probabilistic Relevance Framework: BM25 and Beyond".
        """
        found = set(self.sections.values())
        if not found:
            return {}
        mean = sum(self.sizes[section] for section in found) / len(found)
        scores = {}
        for section in found:
            norm = k1 * (1 - b + b * self.sizes[section] / mean)
            held = [
                (self.counts[word].get(section, 0), self.rarities[word]) for word in self.counts
            ]
            scores[section] = sum(
                rarity * count * (k1 + 1) / (count + norm) for count, rarity in held
            )
        return {passage: scores[section] for passage, section in self.sections.items()}


def section_words(
    session: Session, words: Sequence[str], passage_ids: Sequence[str]
) -> SectionWords:
    """Where these words stand in these passages, and in the sections that hold them."""
    if not passage_ids:
        return SectionWords({}, {}, {}, {}, {})
    postgresql = session.get_bind().dialect.name == "postgresql"
    connection = session.connection()
    given = {"passages": list(passage_ids)}
    passages = text(_PASSAGES).bindparams(bindparam("passages", expanding=True))
    sections = {
        number: (document, heading)
        for number, document, heading in connection.execute(passages, given)
    }
    documents = sorted({document for document, _ in sections.values()})
    within: BindParameter[str] = bindparam("documents", expanding=True)
    counting = text(_COUNT_POSTGRESQL if postgresql else _COUNT_SQLITE)
    finding = text(_HOLDING_POSTGRESQL if postgresql else _HOLDING_SQLITE).bindparams(within)
    sizing = connection.execute(text(_SIZES).bindparams(within), {"documents": documents})
    sizes = {(document, heading): size for document, heading, size in sizing}
    total = connection.execute(text(_TOTAL_POSTGRESQL if postgresql else _TOTAL_SQLITE)).scalar()
    rarities, holders, counts = {}, {}, {}
    for word in words:
        term = word if postgresql else f'"{word}"'
        count = connection.execute(counting, {"word": term}).scalar()
        if count is None:  # PostgreSQL takes it for a stop word
            continue
        rarities[word] = math.log(1 + ((total or 0) - count + 0.5) / (count + 0.5))
        rows = connection.execute(finding, {"word": term, "documents": documents}).all()
        holders[word] = {number for number, _document, _heading in rows}
        counts[word] = Counter((document, heading) for _number, document, heading in rows)
    return SectionWords(rarities, holders, counts, sections, sizes)


def held(session: Session, words: Sequence[str], passage_ids: Sequence[str]) -> dict[str, float]:
    """How much of a question each passage holds: of the rarities of its `words`, the share of
    those that stand in the passage or its title; 0 to 1.

    A word that no passage holds is the rarest, so that a question about something else than
    the documents scores low though it shares an everyday word with them.
    """
    return section_words(session, words, passage_ids).shares()
