"""A reward signal for answers whose statements stand in the passages that they cite.

Each sentence is a claim. One that names its passage, as in "[2]", is looked for in that passage
alone; one that names none, in all of them, and reads no more than the setting `uncited`. What
is compared are content words, and every number must be there: "5 days" is no echo of "15 days".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel, Field

from plugins.answer_words import content_words, sentences
from plugins.contract import Answer, RewardSignal
from plugins.hookspecs import hookimpl

_CITATION = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
_FEWEST_WORDS = 2
_MOST_CLAIMS = 400


class CitesDocuments:
    """Judges an answer by whether the passages that it cites say what it says.

    The mean over its sentences: 1 where the cited passage holds every content word and number, -1
    where it holds none, a number of the sentence is missing, or no such passage was shown.
    """

    name = "cites_documents"

    class Settings(BaseModel):
        uncited: float = Field(
            default=0.5, ge=-1, le=1, description="The most that a sentence without [n] reads."
        )

    def __init__(self, settings: Settings) -> None:
        self._uncited = settings.uncited

    def read(self, answer: Answer) -> float | None:
        """A reading in [-1, 1]; None without passages, or where nothing is stated."""
        if not answer.passages:
            return None
        shown = [
            content_words(passage.title) | content_words(passage.text)
            for passage in answer.passages
        ]
        read = [self._claim(claim, shown) for claim in sentences(answer.text)[:_MOST_CLAIMS]]
        known = [value for value in read if value is not None]
        return sum(known) / len(known) if known else None

    def _claim(self, claim: str, shown: Sequence[set[str]]) -> float | None:
        cited = {int(one) for given in _CITATION.findall(claim) for one in given.split(",")}
        words = content_words(_CITATION.sub(" ", claim))
        if len(words) < _FEWEST_WORDS:
            return None
        if any(not 1 <= number <= len(shown) for number in cited):
            return -1.0
        looked_at = [shown[number - 1] for number in cited] or shown
        support = 2.0 * max(_share(words, passage) for passage in looked_at) - 1.0
        return support if cited else min(support, self._uncited)


def _share(words: set[str], passage: set[str]) -> float:
    """How many of the words the passage holds; 0 where it lacks a number."""
    missing = words - passage
    if any(character.isdecimal() for word in missing for character in word):
        return 0.0
    return 1.0 - len(missing) / len(words)


@hookimpl
def heed_reward_signals() -> Sequence[type[RewardSignal]]:
    """One signal."""
    return (CitesDocuments,)
