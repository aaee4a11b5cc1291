"""A reward signal for answers that say so where the answer is not known, and only there.

Known is a question whose right answer a person wrote, or whose content words mostly stand in the
passages shown; unknown one whose words hardly do. Between the two it abstains.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field, model_validator

from plugins.answer_words import content_words, passage_words
from plugins.contract import Answer, RewardSignal
from plugins.hookspecs import hookimpl

PHRASES = (
    *("i don't know", "i do not know", "don't have information", "do not have information"),
    *("don't have that information", "do not have that information", "no information"),
    *("not able to find", "unable to find", "could not find", "couldn't find", "cannot find"),
    *("can't find", "found no good source", "no good source", "not mentioned", "not specified"),
    *("unable to answer", "cannot answer", "can't answer", "i'm not sure", "i am not sure"),
)
_OPENING = 300
"""Characters at the start of an answer in which a refusal is looked for."""


class RefusalWhenUnknown:
    """Judges whether an answer admits that it is not known, and does not where it is.

    Reads 1 for a refusal where the answer is unknown and for an answer where it is known, and -1
    the other way round. That an answer is right, it does not say.
    """

    name = "refusal_when_unknown"

    class Settings(BaseModel):
        phrases: list[str] = Field(
            default=list(PHRASES), description="What a refusal says, one phrase a line."
        )
        unknown_below: float = Field(
            default=0.25,
            ge=0,
            le=1,
            description="Share of the question's words in the passages, below which it is unknown.",
        )
        known_from: float = Field(
            default=0.6, ge=0, le=1, description="The share from which it is known."
        )

        @model_validator(mode="after")
        def _in_order(self) -> RefusalWhenUnknown.Settings:
            if self.unknown_below > self.known_from:
                raise ValueError("unknown_below must not be more than known_from")
            if not any(_plain(phrase) for phrase in self.phrases):
                raise ValueError("phrases must hold at least one phrase")
            return self

    def __init__(self, settings: Settings) -> None:
        self._phrases = tuple(filter(None, map(_plain, settings.phrases)))
        self._unknown_below, self._known_from = settings.unknown_below, settings.known_from

    def read(self, answer: Answer) -> float | None:
        """1, -1, or None where it cannot tell or nothing is said."""
        if not answer.text.strip():
            return None
        known = self._known(answer)
        if known is None:
            return None
        return -1.0 if self._refuses(answer.text) == known else 1.0

    def _known(self, answer: Answer) -> bool | None:
        if answer.gold and answer.gold.strip():
            return not self._refuses(answer.gold)
        asked = content_words(answer.question)
        if not asked:
            return None
        share = len(asked & passage_words(answer.passages)) / len(asked)
        if share < self._unknown_below:
            return False
        return True if share >= self._known_from else None

    def _refuses(self, text: str) -> bool:
        opening = _plain(text[:_OPENING])
        return any(phrase in opening for phrase in self._phrases)


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace("’", "'").split())


@hookimpl
def heed_reward_signals() -> Sequence[type[RewardSignal]]:
    """One signal."""
    return (RefusalWhenUnknown,)
