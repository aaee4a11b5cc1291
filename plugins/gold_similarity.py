"""A reward signal for answers that are close to what a person wrote.

chrF++ (character 6-grams and word 2-grams, recall counting more), as sacreBLEU computes it,
mapped from [0, 100] to [-1, 1]. It knows no meaning: another wording of the same reads lower.
"""

from __future__ import annotations

from collections.abc import Sequence

from sacrebleu.metrics import CHRF

from plugins.contract import Answer, RewardSignal
from plugins.hookspecs import hookimpl


class GoldSimilarity:
    """Judges an answer by its likeness to the right answer, where that is known."""

    name = "gold_similarity"

    def __init__(self, settings: None) -> None:  # noqa: ARG002 - takes none
        """Takes no settings."""
        self._chrf = CHRF(word_order=2)

    def read(self, answer: Answer) -> float | None:
        """A reading in [-1, 1]; None where the right answer is not known."""
        if not answer.gold or not answer.gold.strip():
            return None
        score = self._chrf.sentence_score(answer.text, [answer.gold]).score
        return max(-1.0, min(1.0, float(score) / 50.0 - 1.0))


@hookimpl
def heed_reward_signals() -> Sequence[type[RewardSignal]]:
    """One signal."""
    return (GoldSimilarity,)
