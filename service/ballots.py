"""A choice between two answers as it was given, checked; and the row that it becomes.

A row is complete in itself: whoever reads it in a year knows what was shown, where, when and
why, without the settings or the page of that day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from service.errors import InvalidInputError
from service.tables import Candidate, Comparison, Person, Turn, now
from service.wording import readable

Choice = Literal["A", "B", "tie", "both_bad", "skip"]
Strength = Literal["slightly", "much"]

TRAINED_CHOICES = ("A", "B", "tie", "both_bad")
CHOICES: tuple[Choice, ...] = (*TRAINED_CHOICES, "skip")  # type: ignore[assignment]
WITHDRAWN = "withdrawn"
STRENGTHS: tuple[Strength, ...] = ("slightly", "much")

LONGEST_REASON = 500
LONGEST_INTERFACE = 40
LONGEST_DECISION_MS = 24 * 60 * 60 * 1000
"""A vote that took longer says nothing about how hard it was; it is kept as this."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a person chose, how clearly, why, how long it took from both answers being shown, and
    on which version of which page. InvalidInputError for what cannot be meant."""

    choice: str
    strength: str | None = None
    reason: str | None = None
    decision_ms: int | None = None
    interface: str | None = None

    def __post_init__(self) -> None:
        require_one_of("choice", self.choice, CHOICES)
        if self.strength is None:
            return
        require_one_of("strength", self.strength, STRENGTHS)
        if self.choice not in ("A", "B"):
            raise InvalidInputError(f"strength belongs to a choice of A or B, not to {self.choice}")


@dataclass(frozen=True, slots=True)
class Shown:
    """The two answers as they were shown, A first, and why there were two: `pairing` with its
    `probability`, both None where that is not known."""

    turn: Turn
    first: Candidate
    second: Candidate
    pairing: str | None = None
    probability: float | None = None


def comparison_row(
    person: Person, shown: Shown, ballot: Ballot, *, replaces: str | None, blind: bool
) -> Comparison:
    """The row of a vote, not yet stored."""
    decided, took_ms = now(), bounded_ms(ballot.decision_ms)
    first, second = shown.first, shown.second
    canary = first.canary or second.canary
    return Comparison(
        turn_id=shown.turn.id,
        person_id=person.id,
        candidate_a_id=first.id,
        candidate_b_id=second.id,
        choice=ballot.choice,
        strength=ballot.strength,
        reason=optional_text("reason", ballot.reason, LONGEST_REASON),
        decision_ms=took_ms,
        version_a_id=first.version_id,
        version_b_id=second.version_id,
        shown_at=None if took_ms is None else decided - timedelta(milliseconds=took_ms),
        first_token_a_ms=first.first_token_ms,
        first_token_b_ms=second.first_token_ms,
        length_a=len(first.token_ids),
        length_b=len(second.token_ids),
        passages=[str(passage["id"]) for passage in shown.turn.prompt.get("passages", ())],
        settings={"a": first.settings, "b": second.settings},
        interface=optional_text("interface", ballot.interface, LONGEST_INTERFACE),
        pairing="canary" if canary and shown.pairing != "queue" else shown.pairing,
        probability=shown.probability,
        blind=blind,
        replaces_id=replaces,
        simulated=person.kind == "simulated",
        created_at=decided,
    )


def withdrawal(old: Comparison) -> Comparison:
    """The row that takes a vote back, not yet stored."""
    kept = old.model_dump(exclude={"id", "created_at", "choice", "strength", "reason"})
    return Comparison(**kept | {"choice": WITHDRAWN, "replaces_id": old.id})


def require_one_of(name: str, value: str, known: Sequence[str]) -> None:
    """InvalidInputError, naming what would be right, unless the value is known."""
    if value not in known:
        raise InvalidInputError(f"{name} is {value!r}; it must be one of {', '.join(known)}")


def optional_text(name: str, text: str | None, longest: int) -> str | None:
    """The text as it can be kept, None where there is none."""
    if text is None or not text.strip():
        return None
    return readable(name, text, longest)


def bounded_ms(value: int | None) -> int | None:
    """A time from somebody's clock, within what can be true."""
    return None if value is None else max(0, min(value, LONGEST_DECISION_MS))
