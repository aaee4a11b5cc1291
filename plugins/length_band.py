"""A reward signal for answers that are neither curt nor long-winded."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field, model_validator

from plugins.contract import Answer, RewardSignal
from plugins.hookspecs import hookimpl


class LengthBand:
    """Judges an answer by whether its length lies in a band.

    Reads 1 from `shortest` to `longest` words, falls in a straight line on both sides, and is -1
    without a word and from twice `longest` on. Words are what white space separates.
    """

    name = "length_band"

    class Settings(BaseModel):
        shortest: int = Field(default=5, ge=0, description="Fewer words than this are curt.")
        longest: int = Field(default=60, ge=1, description="More words than this are long-winded.")

        @model_validator(mode="after")
        def _in_order(self) -> LengthBand.Settings:
            if self.shortest > self.longest:
                raise ValueError("shortest must not be more than longest")
            return self

    def __init__(self, settings: Settings) -> None:
        self._shortest, self._longest = settings.shortest, settings.longest

    def read(self, answer: Answer) -> float | None:
        """A reading in [-1, 1]."""
        count = len(answer.text.split())
        if count == 0:
            return -1.0
        if count < self._shortest:
            return 2.0 * count / self._shortest - 1.0
        return max(-1.0, min(1.0, 3.0 - 2.0 * count / self._longest))


@hookimpl
def heed_reward_signals() -> Sequence[type[RewardSignal]]:
    """One signal."""
    return (LengthBand,)
