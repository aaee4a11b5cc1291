"""A reward signal for answers that people gave a thumb.

Thumbs belong to a text: an answer that was worded differently has none. In training it speaks
where the policy draws again what people saw, as short answers often are.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from plugins.contract import Answer, RewardSignal
from plugins.hookspecs import hookimpl


class Thumbs:
    """Judges an answer by the thumbs that people gave this very answer.

    Reads the sum of its thumbs over their number and `doubt` more, so that one thumb alone moves
    little and many that agree come near to 1 or -1.
    """

    name = "thumbs"

    class Settings(BaseModel):
        doubt: float = Field(
            default=1.0, ge=0, description="How many thumbs in neither direction stand beside them."
        )

    def __init__(self, settings: Settings) -> None:
        self._doubt = settings.doubt

    def read(self, answer: Answer) -> float | None:
        """A reading in [-1, 1]; None where nobody gave a thumb."""
        values = [given.value for given in answer.feedback if given.kind == "thumb"]
        return sum(values) / (len(values) + self._doubt) if values else None


@hookimpl
def heed_reward_signals() -> Sequence[type[RewardSignal]]:
    """One signal."""
    return (Thumbs,)
