"""A reward signal for answers that come to the point.

Reads 1 up to `words` words, falls in a straight line, and stays at -1 from three
times as many. Words are what white space separates.
"""

from __future__ import annotations

from dataclasses import dataclass

from plugins.contract import Answer, OptionField, Options, OptionsError
from plugins.hookspecs import hookimpl

DEFAULT_WORDS = 40


@dataclass(frozen=True, slots=True)
class Concise:
    """Judges an answer by its length alone; `words` is the longest that still reads 1."""

    words: int = DEFAULT_WORDS

    def read(self, answer: Answer) -> float | None:
        """A reading in [-1, 1]; None for an answer without words."""
        count = len(answer.text.split())
        if not count:
            return None
        return max(-1.0, min(1.0, 2.0 - count / self.words))


@hookimpl
def heed_options() -> tuple[OptionField, ...]:
    """One number."""
    told = "The longest answer, in words, that still reads 1."
    return (OptionField("words", told, "number", DEFAULT_WORDS),)


@hookimpl
def heed_reward_signal(options: Options) -> Concise:
    """Options: `words`, a whole number of at least 1 (default 40)."""
    unknown = sorted(set(options) - {"words"})
    if unknown:
        raise OptionsError(f"option {unknown[0]!r} is unknown; concise knows: words")
    words = options.get("words", DEFAULT_WORDS)
    if not isinstance(words, int) or isinstance(words, bool) or words < 1:
        raise OptionsError(f"option words is {words!r}; give a whole number of at least 1")
    return Concise(words)
