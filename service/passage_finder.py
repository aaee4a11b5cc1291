"""Finds the passages to answer from: by their words, by their meaning, then by a reranker.

Words are the database's full text (retrieval.py), meaning an embedding model's vectors
(passage_vectors.py), where the operator names one. Both scores are brought to [0, 1] and added, as
by Bruch, Gai and Ingber (2023), "An Analysis of Fusion Functions for Hybrid Retrieval": a cosine
from its least possible value to the best found, a full-text score from 0 to the best found.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine
from sqlmodel import Session

import rlhf_engine
from rlhf_engine.records import PromptPassage
from service.embedding import embedding
from service.groups import EVERYBODY
from service.passage_vectors import Near, VectorIndex
from service.reranking import Reranking
from service.retrieval import content_words, held, ranked, retrieve
from service.settings import Settings

WIDER = 4
"""How many times as many passages are found for a reranker to choose from."""
FUSED = 60
"""Passages of each search that are looked at together, at least."""
MEANING_WEIGHT = 0.8
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

        With a bar each must hold that share of the question's words (see retrieval.held), or be as
        near to its meaning as the setting `retrieval.similarity_bar` says.
        """
        wider = limit * WIDER if self._reranking else limit
        near = self._near(opened, question, max(wider, FUSED), readers)
        if near is None:
            found = retrieve(opened, question, wider, readers, source_bar)
        else:
            found = self._fused(opened, question, near, max(wider, FUSED), source_bar, readers)
        return self._reranking.ordered(question, found[:wider])[:limit]

    def close(self) -> None:
        """Let go of the reranker's process."""
        self._reranking.close()

    def _near(
        self, opened: Session, question: str, limit: int, readers: Sequence[str]
    ) -> list[Near] | None:
        """The passages nearest in meaning; None where no model is there to tell."""
        model = self._embedding
        if model is None or not content_words(question) or not model.ready(self._patient):
            return None
        try:
            (wanted,) = model.vectors([question])
            if self._index is None or self._index.model != model.id:
                self._index = VectorIndex(model.id)
            return self._index.nearest(opened, wanted, limit, readers)
        except rlhf_engine.SentenceModelError:
            return None

    def _fused(
        self,
        opened: Session,
        question: str,
        near: Sequence[Near],
        limit: int,
        source_bar: float,
        readers: Sequence[str],
    ) -> list[PromptPassage]:
        words = content_words(question)
        worded = ranked(opened, words, limit, readers)
        passages = {one.passage.id: one.passage for one in near}
        passages |= {passage.id: passage for passage, _ in worded}
        scores = fused_scores(
            {one.passage.id: one.cosine for one in near},
            {passage.id: score for passage, score in worded},
        )
        order = sorted(passages, key=lambda number: (-scores[number], number))
        if source_bar > 0 and order:
            shares = held(opened, words, order)
            like = {one.passage.id for one in near if one.cosine >= self._similarity_bar}
            order = [one for one in order if shares[one] >= source_bar or one in like]
        return [passages[number] for number in order]


def fused_scores(cosines: dict[str, float], full_text: dict[str, float]) -> dict[str, float]:
    """The sum of both searches' scores for each passage that one of them found. What a search did
    not find has the least score that it found."""
    best_cosine = max(cosines.values(), default=0.0)
    least_cosine = min(cosines.values(), default=-1.0)
    best_text = max(full_text.values(), default=0.0) or 1.0
    return {
        number: MEANING_WEIGHT * (cosines.get(number, least_cosine) + 1) / (best_cosine + 1 or 1.0)
        + (1 - MEANING_WEIGHT) * full_text.get(number, 0.0) / best_text
        for number in {*cosines, *full_text}
    }


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
