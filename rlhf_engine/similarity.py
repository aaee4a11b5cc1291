"""How close an answer is to the one a person wrote: chrF and ROUGE-L, by their reference
implementations (sacrebleu, rouge-score)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.chrf import CHRF


@dataclass(frozen=True, slots=True)
class Similarity:
    """chrF from 0 to 100 (character n-grams), ROUGE-L F1 from 0 to 1 (longest common words)."""

    chrf: float
    rouge_l: float


def answer_similarity(answers: Sequence[str], golds: Sequence[str]) -> list[Similarity]:
    """One reading an answer against its gold answer."""
    chrf, rouge = _metrics()
    return [
        Similarity(
            chrf=float(chrf.sentence_score(answer, [gold]).score),
            rouge_l=float(rouge.score(gold, answer)["rougeL"].fmeasure),
        )
        for answer, gold in zip(answers, golds, strict=True)
    ]


@cache
def _metrics() -> tuple[CHRF, RougeScorer]:
    return CHRF(), RougeScorer(["rougeL"])
