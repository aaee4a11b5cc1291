"""A reward signal for answers that keep to what the passages say.

Reads the share of the answer's content words that stand in the passages, mapped to
[-1, 1]. It compares words, not meaning: an answer that uses the right words for a
wrong statement reads high, so give it a small weight.
"""

from __future__ import annotations

from collections.abc import Sequence

from plugins.answer_words import content_words, passage_words
from plugins.contract import Answer, RewardSignal
from plugins.hookspecs import hookimpl


class Grounded:
    """Judges an answer by how many of its content words the passages hold."""

    name = "grounded"

    def __init__(self, settings: None) -> None:
        """Takes no settings."""

    def read(self, answer: Answer) -> float | None:
        """A reading in [-1, 1]; None without passages, or for an answer without content words."""
        said = content_words(answer.text)
        if not answer.passages or not said:
            return None
        return 2.0 * len(said & passage_words(answer.passages)) / len(said) - 1.0


@hookimpl
def heed_reward_signals() -> Sequence[type[RewardSignal]]:
    """One signal."""
    return (Grounded,)
