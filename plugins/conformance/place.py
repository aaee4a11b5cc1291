"""The place that a source reads in its tests, and the means to change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from plugins.conformance.checking import NotChecked

Fill = Callable[[Path], Mapping[str, Any]]
"""Writes a source's data into an empty folder, and answers the settings that read it."""


class Place:
    """Override `settings` and whatever else your place can do.

    One is made for each check, with an empty folder of its own. A check that needs what you
    did not override is skipped, and says so. At least two items make the checks worth it.
    """

    wrong: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Settings that must be refused, each beside the settings of the place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def settings(self) -> Mapping[str, Any]:
        """Fill the place, and answer the source's settings. Called once."""
        raise NotImplementedError(f"{type(self).__name__} needs a method settings")

    def close(self) -> None:
        """Take down what `settings` put up."""

    def add(self, text: str) -> str:  # noqa: ARG002 - for those that override it
        """Add an item whose text, or whose answer, holds `text`; answer its id."""
        raise _not_given("add(text)", "adds an item with this text and answers its id")

    def change(self) -> str:
        """Change the text of one item; answer its id."""
        raise _not_given("change()", "changes the text of one item and answers its id")

    def remove(self) -> str:
        """Remove one item; answer its id."""
        raise _not_given("remove()", "removes one item and answers its id")

    def empty(self) -> None:
        """Remove every item; the place itself can still be read."""
        raise _not_given("empty()", "removes every item")

    def spoil(self) -> None:
        """Make one record unusable (no text, bytes that are no UTF-8); leave the others."""
        raise _not_given("spoil()", "makes one record unusable")

    def restrict(self) -> tuple[str, tuple[str, ...]]:
        """Let only some people read one item; answer its id and its readers."""
        raise _not_given("restrict()", "lets only some read an item; answers its id and readers")

    def take_away(self) -> None:
        """Make the place unreadable: move the file away, stop the server."""
        raise _not_given("take_away()", "makes the place unreadable")

    def throttle(self, seconds: int) -> None:  # noqa: ARG002 - as above
        """Refuse every request from now on, telling the asker to wait `seconds`."""
        raise _not_given("throttle(seconds)", "refuses every request with this time to wait")

    def expire(self) -> None:
        """Take the secret no more."""
        raise _not_given("expire()", "takes the secret no more")

    def recover(self) -> None:
        """Undo `throttle`, `expire` and `take_away`."""
        raise _not_given("recover()", "undoes throttle(), expire() and take_away()")


def filled_by(fill: Fill | Mapping[str, Any]) -> type[Place]:
    """A place with settings alone: a mapping of them, or a function of a folder."""

    class Filled(Place):
        def settings(self) -> Mapping[str, Any]:
            return fill(self.folder) if callable(fill) else fill

    return Filled


def _not_given(means: str, what: str) -> NotChecked:
    return NotChecked(f"give the place a method {means} that {what} (plugins.testing.Place)")
