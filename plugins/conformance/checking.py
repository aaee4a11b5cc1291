"""A check, the two ways it can end, and the lists that checks are kept in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Subject = TypeVar("Subject")


class Broken(AssertionError):  # noqa: N818 - reads as a verdict, not as a fault of the check
    """The plugin breaks a promise of the contract; the text says how, and what would be right."""


class NotChecked(Exception):  # noqa: N818 - as above
    """The check could not be run; the text says what to give for it, or why it does not apply."""


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """One promise. `sentence` states what holds for a plugin that keeps it."""

    name: str
    sentence: str
    run: Callable[[Subject], None]


class Checks(list[Check[Subject]]):
    """Checks of one subject, in the order in which they are written."""

    def add(self, run: Callable[[Subject], None]) -> Callable[[Subject], None]:
        """Mark a function as a check; its name and its docstring become the check's."""
        sentence = " ".join((run.__doc__ or "").split())
        self.append(Check(run.__name__, sentence, run))
        return run


def require(holds: bool, told: str) -> None:
    """Raise Broken with `told` where something does not hold."""
    if not holds:
        raise Broken(told)
