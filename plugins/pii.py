"""A redactor that takes personal data out of questions and answers before they are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from plugins.contract import Redactor
from plugins.hookspecs import hookimpl
from plugins.personal_data import known_region, personal_data


class Pii:
    """Puts "[e-mail address]" and the like in the place of personal data.

    Finds e-mail addresses, phone numbers, IBANs, card numbers and US social security numbers, not
    names. What must be answered, such as the address of the help desk, belongs into `keep`.
    """

    name = "pii"

    class Settings(BaseModel):
        keep: list[str] = Field(
            default=[],
            description='What stays, one a line: "help@example.com", "@example.com", "+1 555 01".',
        )
        region: Annotated[str, AfterValidator(known_region)] = Field(
            default="",
            description="Country whose phone numbers are known without prefix too, like US.",
        )

    def __init__(self, settings: Settings) -> None:
        self._keep = tuple(filter(None, (kept.strip().casefold() for kept in settings.keep)))
        self._region = settings.region or None

    def redact(self, text: str) -> str:
        """The text without personal data."""
        parts, end = [], 0
        for found in personal_data(text, self._region):
            if not any(kept in found.value.casefold() for kept in self._keep):
                parts += [text[end : found.start], f"[{found.kind}]"]
                end = found.end
        return "".join([*parts, text[end:]])


@hookimpl
def heed_redactors() -> Sequence[type[Redactor]]:
    """One redactor."""
    return (Pii,)
