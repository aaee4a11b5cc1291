"""How long a sync of unchanged documents takes, beside the first sync of the same documents.

    python -m tests.benchmarks.resync
    python -m tests.benchmarks.resync --database sqlite --documents 2000

A plugin in a process of its own, as in service, brings documents of some sections each, with a
checkpoint after every 100, into a new SQLite file and a new database of a PostgreSQL server of
its own; then again, nothing having changed; then with one in a hundred changed. Prints seconds and
their ratio to the first sync. Goal: 10,000 unchanged documents in at most 20 s.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import structlog
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from service.plugin_host import PluginHost
from service.settings import Settings, SourceSettings
from service.sync import sync_source
from service.tables import SyncReport
from tests.benchmarks.pages import database

GOAL_S, GOAL_DOCUMENTS = 20.0, 10_000

PLUGIN = '''
from plugins.hookspecs import hookimpl

SECTION = "## Part {part} of {number}\\n\\n" + "What is said here of it takes a few lines. " * 12


class Many:
    """Documents without end."""

    name = "many"

    def __init__(self, settings):
        """Takes its numbers from a file beside it."""

    def items(self, cursor):
        """All of them."""
        count, changed = map(int, open(PLACE).read().split())
        for number in range(int(cursor.get("at", 0)), count):
            text = "\\n\\n".join(SECTION.format(part=part, number=number) for part in range(4))
            if changed and number % 100 == 0:
                text += " This is new."
            yield dict(kind="document", id=f"d{number}", title=f"Document {number}", text=text)
            if number % 100 == 99:
                yield dict(kind="checkpoint", cursor={"at": number + 1})
        yield dict(kind="complete")


@hookimpl
def heed_data_sources():
    return [Many]
'''


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of a first sync, of `unchanged` ones and of one with changes."""

    first: float
    unchanged: list[float]
    changed: float


def measure(engine: Engine, folder: Path, documents: int, times: int) -> Taken:
    """Sync the same documents `times` times after the first. RuntimeError where a sync did
    anything else than it was to do."""
    place = folder / "numbers.txt"
    (folder / "many.py").write_text(PLUGIN.replace("PLACE", repr(str(place))), "utf-8")
    host = PluginHost.load(Settings(home=folder, plugin_folder=folder))

    def timed(changed: int, expected: tuple[int, int, int]) -> float:
        place.write_text(f"{documents} {changed}", "utf-8")
        started = perf_counter()
        report = sync_source(engine, host, SourceSettings(name="many", plugin="many"))
        _check(report, expected)
        return perf_counter() - started

    some = (documents + 99) // 100
    first = timed(0, (documents, 0, 0))
    unchanged = [timed(0, (0, 0, documents)) for _ in range(times)]
    return Taken(first, unchanged, timed(1, (0, some, documents - some)))


def _check(report: SyncReport, expected: tuple[int, int, int]) -> None:
    done = (report.added, report.changed, report.unchanged)
    if report.error or done != expected:
        raise RuntimeError(f"the sync did {done} in the place of {expected}: {report.error}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--documents", type=int, default=GOAL_DOCUMENTS)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    console, missed = Console(), False
    kinds = ("sqlite", "postgresql") if given.database == "both" else (given.database,)
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder, database(kind, Path(folder)) as engine:
            taken = measure(engine, Path(folder), given.documents, given.times)
        console.print(_table(kind, given.documents, taken))
        goal_s = GOAL_S * given.documents / GOAL_DOCUMENTS
        median_s = statistics.median(taken.unchanged)
        verdict = "MISSED" if median_s > goal_s else "met"
        console.print(f"{kind}: unchanged in {median_s:.1f} s, goal {goal_s:.1f} s: {verdict}")
        missed = missed or median_s > goal_s
    return int(missed)


def _table(kind: str, documents: int, taken: Taken) -> Table:
    table = Table(
        "sync", "seconds (median)", "of the first", title=f"{kind}: {documents} documents"
    )
    rows = (
        ("first", taken.first),
        ("unchanged", statistics.median(taken.unchanged)),
        ("1 in 100 changed", taken.changed),
    )
    for name, seconds in rows:
        table.add_row(name, f"{seconds:.2f}", f"{seconds / taken.first:.3f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
