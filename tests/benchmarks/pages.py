"""How long the pages' requests take with 10,000 conversations and 100,000 votes in the database.

    python -m tests.benchmarks.pages
    python -m tests.benchmarks.pages --database sqlite

Fills a new SQLite file and a new database of a PostgreSQL server of its own, asks each list that a
page shows from the application in this process, so that what is measured is the server's share
alone, and prints medians and p95 beside the goals: lists 200 ms, acknowledging a vote 100 ms. The
first call of each is shown apart: it reads what no earlier one had to.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import structlog
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text

from service.database import migrate, open_database
from tests.benchmarks.pages_seed import Size, belong_to, seed
from tests.conftest import PostgresCluster
from tests.service.web_client import ORIGIN, web_app

VOTE, NEXT_PAIR = "vote", "next pair"
VOTE_GOAL_MS, LIST_GOAL_MS = 100.0, 200.0
LISTS = (
    "/api/conversations",
    "/api/conversations?search=pensions",
    "/api/conversations/own0",
    "/api/my/feedback",
    "/api/my/effects",
    "/api/notices",
    "/api/vote-queue/figures",
    "/api/vote-checks",
    "/api/review",
    "/api/review/corrections",
    "/api/review/answers",
    "/api/review/questions",
    "/api/review/verified",
    "/api/review/verified?words=building",
    "/api/feedback/figures?days=90",
    "/api/feedback/topics?days=90",
    "/api/leaderboard",
    "/api/runs",
    "/api/runs/run1",
    "/api/policies",
    "/api/policies/5",
    "/api/answers/own0-1A/lineage",
    "/api/sources",
    "/api/sources/handbook",
    "/api/signals",
    "/api/account",
    "/api/people",
    "/api/invitations",
    "/api/keys",
    "/api/audit",
)


@dataclass(frozen=True, slots=True)
class Taken:
    """Milliseconds of the first call and of those after it."""

    first: float
    rest: list[float]

    @property
    def p95(self) -> float:
        """The value that 95 of 100 do not exceed."""
        return statistics.quantiles(self.rest, n=20, method="inclusive")[-1]


@contextmanager
def database(kind: str, folder: Path) -> Iterator[Engine]:
    """A new, migrated database."""
    if kind == "sqlite":
        engine = open_database(f"sqlite:///{folder}/heed.db")
        migrate(engine)
        yield engine
        engine.dispose()
        return
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not installed:
        sys.exit("no PostgreSQL binaries found; install postgresql, or ask for --database sqlite")
    cluster = PostgresCluster(installed[-1].parent)
    try:
        engine = open_database(cluster.fresh_migrated())
        yield engine
        engine.dispose()
    finally:
        cluster.stop()


async def measure(engine: Engine, home: Path, size: Size, times: int) -> dict[str, Taken]:
    """Ask everything `times` times, as an administrator with conversations of their own."""
    with web_app(engine, home, visitors="admin") as app:
        transport = httpx.ASGITransport(app)
        headers = {"sec-fetch-site": "same-origin"}
        async with httpx.AsyncClient(
            transport=transport, base_url=ORIGIN, headers=headers
        ) as client:
            me = (await client.get("/api/me")).raise_for_status().json()
            waiting = belong_to(engine, me["id"], size)
            if engine.dialect.name == "postgresql":
                with engine.begin() as opened:
                    opened.execute(text("ANALYZE"))  # which its autovacuum does in a while
            found = {path: await _timed(client, times, "GET", path) for path in LISTS}
            found[NEXT_PAIR] = await _timed(client, times, "POST", "/api/vote-queue")
            found[VOTE] = await _votes(client, waiting[: times + 1])
    return found


async def _timed(client: httpx.AsyncClient, times: int, method: str, path: str) -> Taken:
    body: dict[str, Any] | None = {} if method == "POST" else None
    first, *rest = [await _took(client, method, path, body) for _ in range(times + 1)]
    return Taken(first, rest)


async def _votes(client: httpx.AsyncClient, turns: Sequence[str]) -> Taken:
    body = {"choice": "A", "strength": "much", "decision_ms": 4000, "interface": "chat/1"}
    paths = [f"/api/turns/{turn}/comparison" for turn in turns]
    first, *rest = [await _took(client, "POST", path, body) for path in paths]
    return Taken(first, rest)


async def _took(client: httpx.AsyncClient, method: str, path: str, body: Any) -> float:
    began = perf_counter()
    response = await client.request(method, path, json=body)
    taken = 1000 * (perf_counter() - began)
    response.raise_for_status()
    return taken


def goal_ms(name: str) -> float:
    """How long it may take, p95."""
    return VOTE_GOAL_MS if name == VOTE else LIST_GOAL_MS


def print_table(found: dict[str, dict[str, Taken]], size: Size) -> bool:
    """A row a request, three columns a database; whether every goal was met."""
    votes = size.conversations * size.turns
    title = f"{size.conversations:,} conversations, {votes:,} votes: milliseconds"
    table = Table(title=title, title_justify="left")
    table.add_column("asked", no_wrap=True)
    for kind in found:
        for figure in ("first", "p50", "p95"):
            table.add_column(f"{kind}\n{figure}", justify="right")
    missed = []
    for name in next(iter(found.values())):
        cells = []
        for kind, taken in found.items():
            one = taken[name]
            cells += [f"{each:.0f}" for each in (one.first, statistics.median(one.rest), one.p95)]
            if one.p95 > goal_ms(name):
                missed.append(f"MISSED {name} on {kind}: {one.p95:.0f} ms of {goal_ms(name):.0f}")
        table.add_row(name, *cells)
    console = Console(width=110)
    console.print(table)
    load = os.getloadavg()[0]
    console.print(f"load of the machine's {os.cpu_count()} cores by now: {load:.1f}")
    console.print("\n".join(missed) or "every p95 is within its goal")
    return not missed


def main(argv: Sequence[str] | None = None) -> int:
    """Fill, measure and print; 0 where every goal was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--conversations", type=int, default=Size().conversations)
    parser.add_argument("--times", type=int, default=40, help="calls of each request")
    options = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    size = Size(
        conversations=options.conversations, others=min(Size().others, options.conversations * 2)
    )
    found = {}
    for kind in options.database or ("sqlite", "postgresql"):
        with tempfile.TemporaryDirectory() as folder, database(kind, Path(folder)) as engine:
            began = perf_counter()
            seed(engine, size)
            sys.stderr.write(f"{kind}: filled in {perf_counter() - began:.0f} s\n")
            home = Path(folder) / "home"
            found[kind] = asyncio.run(measure(engine, home, size, options.times))
    return 0 if print_table(found, size) else 1


if __name__ == "__main__":
    sys.exit(main())
