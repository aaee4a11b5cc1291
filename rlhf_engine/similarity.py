"""How close an answer is to the one a person wrote: chrF and ROUGE-L, by their reference
implementations (sacrebleu, rouge-score), and the share of the exact facts (facts.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from sacrebleu.metrics.chrf import CHRF

from rlhf_engine.facts import facts_found

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


@dataclass(frozen=True, slots=True)
class Similarity:
    """chrF from 0 to 100 (character n-grams), ROUGE-L F1 from 0 to 1 (longest common words), and
    the share of the gold answer's exact facts, None where it states none."""

    chrf: float
    rouge_l: float
    facts: float | None


def answer_similarity(answers: Sequence[str], golds: Sequence[str]) -> list[Similarity]:
    """One reading an answer against its gold answer."""
    rouge = _rouge()
    return [
        Similarity(
            chrf,
            float(rouge.score(gold, answer)["rougeL"].fmeasure),
            facts_found(answer, gold),
        )
        for chrf, answer, gold in zip(answer_chrf(answers, golds), answers, golds, strict=True)
    ]


def answer_chrf(answers: Sequence[str], golds: Sequence[str]) -> list[float]:
    """chrF alone, 0 to 100, one an answer against its gold answer."""
    metric = CHRF()
    return [
        float(metric.sentence_score(answer, [gold]).score)
        for answer, gold in zip(answers, golds, strict=True)
    ]


@cache
def _rouge() -> RougeScorer:
    # Imported here: it brings scipy, 70 MB that whoever needs chrF alone is spared.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])
