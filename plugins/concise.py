"""A reward signal for answers that come to the point."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from plugins.contract import Answer, RewardSignal
from plugins.hookspecs import hookimpl


class Concise:
    """Judges an answer by its length alone.

    Reads 1 up to `words` words, falls in a straight line, and stays at -1 from three
    times as many. Words are what white space separates.
    """

    name = "concise"

    class Settings(BaseModel):
        words: int = Field(
            default=40, ge=1, description="The longest answer, in words, that still reads 1."
        )

    def __init__(self, settings: Settings) -> None:
        self._words = settings.words

    def read(self, answer: Answer) -> float | None:
        """A reading in [-1, 1]; None for an answer without words."""
        count = len(answer.text.split())
        if not count:
            return None
        return max(-1.0, min(1.0, 2.0 - count / self._words))


@hookimpl
def heed_reward_signals() -> Sequence[type[RewardSignal]]:
    """One signal."""
    return (Concise,)
