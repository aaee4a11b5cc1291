"""Finds the passages to answer from: by their words, by their meaning, then by a reranker.

Words are the database's full text (retrieval.py), meaning an embedding model's vectors
(passage_vectors.py), where the operator names one. Both scores are brought to [0, 1] and added, as
by Bruch, Gai and Ingber (2023), "An Analysis of Fusion Functions for Hybrid Retrieval": a cosine
from the least of the passages looked at to the best, a full-text score from 0 to the best. In both
the section around a passage counts as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Engine
from sqlmodel import Session

import rlhf_engine
from rlhf_engine.records import PromptPassage
from service.embedding import embedding
from service.groups import EVERYBODY
from service.passage_vectors import VectorIndex
from service.reranking import Reranking
from service.retrieval import LOOKED_AT, SECTION_WEIGHT, content_words, ranked, retrieve
from service.section_words import held
from service.settings import Settings

WIDER = 4
"""How many times as many passages are found for a reranker to choose from."""
MEANING_WEIGHT = 0.6
"""What meaning counts of the sum; words count the rest."""


class PassageFinder:
    """What finds passages beside the full text, as the operator set it: an embedding model, a
    reranker, either or neither. A `patient` one waits for both to be loaded."""

    def __init__(self, settings: Settings, database: Engine, *, patient: bool = False) -> None:
        self._patient, self._similarity_bar = patient, settings.retrieval.similarity_bar
        self._reranking = Reranking(settings, database, patient=patient)
        folder = settings.retrieval.embeddings
        self._embedding = embedding(folder) if folder is not None else None
        self._index: VectorIndex | None = None
        if self._embedding is not None:
            self._embedding.ready()

    def find(
        self,
        opened: Session,
        question: str,
        limit: int,
        source_bar: float = 0.0,
        readers: Sequence[str] = EVERYBODY,
    ) -> list[PromptPassage]:
        """At most `limit` passages to answer from, the best first, of what these may read.

        With a bar each must hold that share of the question's words (see section_words.held), or
        be as near to its meaning as the setting `retrieval.similarity_bar` says.
        """
        wider = limit * WIDER if self._reranking else limit
        wanted = self._vector(question)
        if wanted is None:
            found = retrieve(opened, question, wider, readers, source_bar)
        else:
            found = self._fused(opened, question, wanted, wider, source_bar, readers)
        return self._reranking.ordered(question, found[:wider])[:limit]

    def close(self) -> None:
        """Let go of the reranker's process."""
        self._reranking.close()

    def _vector(self, question: str) -> np.ndarray | None:
        """What the model makes of the question; None where no model is there to tell."""
        model = self._embedding
        if model is None or not content_words(question) or not model.ready(self._patient):
            return None
        try:
            if self._index is None or self._index.model != model.id:
                self._index = VectorIndex(model.id)
            (wanted,) = model.vectors([question])
        except rlhf_engine.SentenceModelError:
            return None
        return np.asarray(wanted)

    def _fused(
        self,
        opened: Session,
        question: str,
        wanted: np.ndarray,
        limit: int,
        source_bar: float,
        readers: Sequence[str],
    ) -> list[PromptPassage]:
        assert self._index is not None
        words, looked_at = content_words(question), max(limit, LOOKED_AT)
        worded = ranked(opened, words, looked_at, readers)
        near = self._index.nearest(opened, wanted, looked_at, readers)
        passages = {passage.id: passage for passage, _ in worded}
        passages |= {one.passage.id: one.passage for one in near}
        around = self._index.around(opened, wanted, list(passages))
        meaning = {
            number: (1 - SECTION_WEIGHT) * one.passage + SECTION_WEIGHT * one.section
            for number, one in around.items()
        }
        scores = fused_scores(meaning, {passage.id: score for passage, score in worded})
        order = sorted(passages, key=lambda number: (-scores[number], number))[:looked_at]
        if source_bar > 0 and order:
            shares = held(opened, words, order)
            bar = self._similarity_bar
            like = {number for number, one in around.items() if one.passage >= bar}
            order = [one for one in order if shares[one] >= source_bar or one in like]
        return [passages[number] for number in order]


def fused_scores(meaning: dict[str, float], full_text: dict[str, float]) -> dict[str, float]:
    """The sum of both scores for each passage that has one; where a passage lacks one, 0 counts."""
    best, least = max(meaning.values(), default=1.0), min(meaning.values(), default=0.0)
    best_text = max(full_text.values(), default=0.0) or 1.0
    scores = {
        number: (1 - MEANING_WEIGHT) * score / best_text for number, score in full_text.items()
    }
    for number, score in meaning.items():
        share = (score - least) / (best - least) if best > least else 1.0
        scores[number] = scores.get(number, 0.0) + MEANING_WEIGHT * share
    return scores


def best_passages(
    opened: Session,
    question: str,
    limit: int,
    source_bar: float = 0.0,
    finder: PassageFinder | None = None,
    readers: Sequence[str] = EVERYBODY,
) -> list[PromptPassage]:
    """PassageFinder.find; by full text alone without a finder."""
    if finder is None:
        return retrieve(opened, question, limit, readers, source_bar)
    return finder.find(opened, question, limit, source_bar, readers)
