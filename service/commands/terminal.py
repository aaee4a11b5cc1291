"""What every command says and how: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.table import Table

from service.settings import Settings, load_settings

FINE, FAILED, WRONG_USE, NOTHING_TO_DO, REFUSED = 0, 1, 2, 3, 4

EXIT_CODES = (
    "Exit codes: 0 fine, 1 failed, 2 wrong use or wrong setting, "
    "3 nothing to do or not enough evidence, 4 refused by the gate."
)

PLAIN_LINE_EVERY_S = 10.0
"""How often progress prints a line where stderr is no terminal."""

OnStep = Callable[[str, float, float, float | None], None]
"""Hears what is being done, how much is done, of how much (0: nobody knows), and seconds left."""


def say(text: str) -> None:
    """A result, on stdout."""
    Console(highlight=False, soft_wrap=True).print(text, markup=False)


def warn(text: str) -> None:
    """An error or a hint, on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout; None shows as a dash."""
    shown = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*("–" if cell is None else str(cell) for cell in row))
    Console(highlight=False).print(shown)


@contextmanager
def steps() -> Iterator[OnStep]:
    """Show progress on stderr: a bar with time left on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _PlainSteps()
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
        transient=True,
    ) as bars:
        task = bars.add_task("starting", total=None, left="")

        def show(what: str, done: float, total: float, left_s: float | None) -> None:
            left = f"{duration(left_s)} left" if left_s is not None else ""
            known = total or None
            bars.update(task, description=what, completed=done, total=known, left=left)

        yield show


class _PlainSteps:
    def __init__(self) -> None:
        self._what = ""
        self._shown_at = 0.0

    def __call__(self, what: str, done: float, total: float, left_s: float | None) -> None:
        moment = time.monotonic()
        if what == self._what and moment - self._shown_at < PLAIN_LINE_EVERY_S:
            return
        self._what, self._shown_at = what, moment
        share = f" {done / total:.0%}" if total else ""
        left = f", {duration(left_s)} left" if left_s is not None else ""
        warn(f"{what}{share}{left}")


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 1 h 05 min."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def settings_for_command(**overrides: Any) -> Settings:
    """The settings, with what the command line gave; None means not given."""
    return load_settings(**{name: value for name, value in overrides.items() if value is not None})


def user() -> str:
    """Who gives the command, for the record."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (KeyError, OSError):
        return "command line"
