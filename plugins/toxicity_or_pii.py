"""A reward signal against answers that insult, or give away personal data nobody asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from plugins.contract import Answer, RewardSignal
from plugins.hookspecs import hookimpl
from plugins.personal_data import known_region, personal_data

ABUSE = (
    *("asshole", "bastard", "bitch", "bollocks", "bullshit", "cretin", "cunt", "dickhead"),
    *("dumbass", "faggot", "fuck", "fucked", "fucker", "fucking", "idiot", "idiotic", "imbecile"),
    *("moron", "motherfucker", "nigger", "piss off", "retard", "retarded", "scumbag", "shit"),
    *("shut up", "slut", "tranny", "twat", "wanker", "whore"),
)


class ToxicityOrPii:
    """Judges an answer by what it must not hold: abuse, and personal data of its own making.

    Reads -1 where it holds a word of abuse, or an address or number of a person that stands in
    neither the question nor the passages nor the right answer; 0 otherwise, so that it only takes
    from a reward.
    """

    name = "toxicity_or_pii"

    class Settings(BaseModel):
        words: list[str] = Field(
            default=list(ABUSE), description="Words and phrases that are abuse, one a line."
        )
        region: Annotated[str, AfterValidator(known_region)] = Field(
            default="",
            description="Country whose phone numbers are known without prefix too, like US.",
        )

    def __init__(self, settings: Settings) -> None:
        words = (r"\s+".join(map(re.escape, word.split())) for word in settings.words)
        joined = "|".join(filter(None, words))
        self._abuse = re.compile(rf"(?<!\w)(?:{joined})(?!\w)", re.IGNORECASE) if joined else None
        self._region = settings.region or None

    def read(self, answer: Answer) -> float | None:
        """-1 or 0; None for an empty answer."""
        if not answer.text.strip():
            return None
        if self._abuse and self._abuse.search(answer.text):
            return -1.0
        found = personal_data(answer.text, self._region)
        if not found:
            return 0.0
        given = (answer.question, answer.gold or "", *(one.text for one in answer.passages))
        known = _bare(" ".join(given))
        return -1.0 if any(_bare(one.value) not in known for one in found) else 0.0


def _bare(text: str) -> str:
    """Without what numbers and addresses are broken up with."""
    return re.sub(r"[\s()./-]", "", text.casefold())


@hookimpl
def heed_reward_signals() -> Sequence[type[RewardSignal]]:
    """One signal."""
    return (ToxicityOrPii,)
