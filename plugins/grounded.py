"""A reward signal for answers that keep to what the passages say.

Reads the share of the answer's content words that stand in the passages, mapped to
[-1, 1]. It compares words, not meaning: an answer that uses the right words for a
wrong statement reads high, so give it a small weight.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from plugins.contract import Answer, RewardSignal
from plugins.hookspecs import hookimpl

_WORD = re.compile(r"[^\W_]+(?:['’.,:@-][^\W_]+)*")

_FUNCTION_WORDS = """
    a about after all also am an and any are as at be because been before being both but by
    can could did do does doing each either else even every few for from had has have having
    he her here hers him his how i if in into is it its just let may me might mine more most
    much must my neither no nor not of off on once only or other our ours out over own per
    please same shall she should since so some still such than that the their theirs them then
    there these they this those though through to too under until up upon us very was we were
    what when where whether which while who whom whose why will with within without would yes
    yet you your yours
"""
_WITHOUT_MEANING = frozenset(_FUNCTION_WORDS.split())


def content_words(text: str) -> set[str]:
    """The distinct words that carry meaning, lower-case, without a plural or possessive s."""
    words = (match.group().casefold().replace("’", "'") for match in _WORD.finditer(text))
    return {_stem(word) for word in words if word not in _WITHOUT_MEANING}


def _stem(word: str) -> str:
    word = word.removesuffix("'s")
    # "days" and "day" must meet; "pass" and "bus" are left whole.
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


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
        known: set[str] = set()
        for passage in answer.passages:
            known |= content_words(passage.title) | content_words(passage.text)
        return 2.0 * len(said & known) / len(said) - 1.0


@hookimpl
def heed_reward_signals() -> Sequence[type[RewardSignal]]:
    """One signal."""
    return (Grounded,)
