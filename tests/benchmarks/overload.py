"""More questions than can be answered: do those that are taken stay quick, and the rest hear so?

    python -m tests.benchmarks.overload [--seconds 20] [--size smollm2 --base FOLDER]

Questions arrive at random moments (a Poisson process), whether or not earlier ones are answered,
from many people, at the real server over HTTP: at half of what it was found to answer, then at
1, 3 and 10 times that. Ends with 1 where a goal is missed at 3 or 10 times.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.table import Table

from tests.benchmarks.serving_client import Asker, Heard, new_askers
from tests.benchmarks.serving_goals import (
    Goal,
    Held,
    add_size,
    base_of,
    begin,
    milliseconds,
    note,
    print_goals,
    print_table,
    quantile,
)
from tests.benchmarks.serving_goals import question as question_of
from tests.benchmarks.serving_process import Server, served, settings_for

NORMAL, TIMES = 0.5, (1, 3, 10)
PEOPLE = 128
"""Twice as many as are ever being answered or waiting, at two questions each."""
STREAMS = 16
"""At once while the capacity is measured: as many as an engine answers together."""
AGAIN_S = 0.05
"""A refused stream waits so long, far less than it is told to, so that no slot rests."""
SLOWER, REJECT_S, BACK_S = 2.0, 0.050, 10.0
PROBES = 3
"""So many quick answers in a row mean that all is as before."""


@dataclass(frozen=True)
class Load:
    """One phase: questions arrived at `times` the capacity."""

    times: float
    heard: list[Heard]
    held: Held

    @property
    def accepted(self) -> list[Heard]:
        """Those that were answered to the end."""
        return [each for each in self.heard if each.ended]

    @property
    def rejected(self) -> list[Heard]:
        """Those that were told to come later."""
        return [each for each in self.heard if each.status in (429, 503)]

    @property
    def failed(self) -> list[Heard]:
        """Those that were neither answered nor told when to come again."""
        return [
            each
            for each in self.heard
            if not each.ended and not (each.status in (429, 503) and each.retry_after)
        ]

    def first_token_s(self, share: float) -> float:
        """A quantile over accepted questions."""
        return quantile([each.first_token_s for each in self.accepted], share)

    def reject_s(self, share: float) -> float:
        """A quantile over rejected questions."""
        return quantile([each.answered_at - each.asked_at for each in self.rejected], share)


async def capacity(askers: Sequence[Asker], seconds: float) -> float:
    """Answers a second where there is always somebody waiting, from the tokens that came."""
    until = time.monotonic() + seconds
    heard: list[Heard] = []

    async def stream(at: int) -> None:
        while time.monotonic() < until:
            heard.append(await askers[at].ask(question_of(at)))
            if not heard[-1].ended:  # refused: asked again at once, refusals alone were measured
                await asyncio.sleep(AGAIN_S)

    await asyncio.gather(*(stream(at) for at in range(STREAMS)))
    ended = [each for each in heard if each.ended]
    tokens = sum(moment < until for each in ended for moment in each.times)
    if not tokens:
        raise SystemExit("no token came while the capacity was measured; give more --seconds")
    return tokens / fmean(len(each.times) for each in ended) / seconds


async def load(
    server: Server, askers: Sequence[Asker], rate: float, times: float, s: float
) -> Load:
    """Questions for `s` seconds at `times` the rate; returns when the last is over."""
    draw = random.Random(f"{times}")
    tasks: list[asyncio.Task[Heard]] = []
    began = due = time.monotonic()
    while (due := due + draw.expovariate(rate * times)) < began + s:
        await asyncio.sleep(due - time.monotonic())
        at = len(tasks)
        tasks.append(asyncio.create_task(askers[at % len(askers)].ask(question_of(at))))
    held = Held.by(server.pid)
    heard = [await task for task in tasks]
    found = Load(times, heard, held)
    note(f"{times:g} times: {len(heard)} questions, {len(found.accepted)} answered")
    return found


async def back_to_normal(asker: Asker, normal_s: float) -> float:
    """Seconds until questions, one after the other, are answered as quickly as normally."""
    began, quick = time.monotonic(), 0
    since = began
    while quick < PROBES and time.monotonic() < began + 6 * BACK_S:
        asked = time.monotonic()
        heard = await asker.ask(question_of(0))
        ok = heard.ended and heard.first_token_s <= normal_s
        since = since if quick else asked
        quick = quick + 1 if ok else 0
    return since - began if quick == PROBES else float("nan")


async def measured(server: Server, seconds: float) -> tuple[float, list[Load], float, Held]:
    """The capacity, the phases, how long it took after the last until all was as before, and
    what the server holds then."""
    askers = await new_askers(server.url, PEOPLE)
    await capacity(askers, min(2.0, seconds))  # warms up
    rate = await capacity(askers, seconds)
    note(f"{rate:.2f} answers a second")
    loads = [await load(server, askers, rate, times, seconds) for times in (NORMAL, *TIMES)]
    # What is still being answered when the last question has come belongs to the load's end.
    recovered = await back_to_normal(askers[0], loads[0].first_token_s(0.95))
    ended = max((each.times[-1] for each in loads[-1].accepted), default=0.0)
    arrived = max(each.asked_at for each in loads[-1].heard)
    return rate, loads, recovered + max(0.0, ended - arrived), Held.by(server.pid)


def goals(loads: Sequence[Load], back_s: float, after: Held) -> list[Goal]:
    """What is judged."""
    normal = loads[0].first_token_s(0.95)
    found: list[Goal] = []
    for each in [one for one in loads if one.times > 1]:
        at = f"at {each.times:g} times"
        slower = each.first_token_s(0.95) / normal
        found += [
            Goal(f"{at}: first token of accepted, p95 of normal's", slower, SLOWER, "x"),
            Goal(
                f"{at}: rejects heard within, p95", 1e3 * each.reject_s(0.95), 1e3 * REJECT_S, " ms"
            ),
            Goal(
                f"{at}: rejects heard within, most", 1e3 * each.reject_s(1), 1e3 * REJECT_S, " ms"
            ),
            Goal(f"{at}: neither answered nor told when to come again", len(each.failed), 0),
        ]
    # Memory at its worst; files when the connections of the load are closed again.
    worst = Held(max(each.held.rss_mb for each in loads), after.files)
    found += worst.goals(loads[0].held)
    return [*found, Goal("back to normal after", back_s, BACK_S, " s")]


def print_loads(loads: Sequence[Load]) -> None:
    """The table."""
    columns = ("load", "questions", "answered", "first token p50", "p95", "rejected")
    table = Table(*columns, "reject p50", "p95", "most", "MB", "files", title="times in ms")
    for each in loads:
        first = (milliseconds(each.first_token_s(share)) for share in (0.5, 0.95))
        rejects = (milliseconds(each.reject_s(share), 1) for share in (0.5, 0.95, 1))
        counts = str(len(each.heard)), str(len(each.accepted))
        held = f"{each.held.rss_mb:.0f}", str(each.held.files)
        table.add_row(f"{each.times:g}x", *counts, *first, str(len(each.rejected)), *rejects, *held)
    print_table(table)
    for each in loads:
        codes = Counter(one.status for one in each.heard)
        told = sum(one.retry_after is not None for one in each.rejected)
        shown = ", ".join(f"{code or 'none'}: {count}" for code, count in sorted(codes.items()))
        print(f"{each.times:g}x: status {shown}; Retry-After in {told} of {len(each.rejected)}")
        for one in each.failed[:2]:
            print(f"  went wrong: {one.trouble[:200]}")


def main(argv: Sequence[str]) -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.overload")
    add_size(parser)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--answer-tokens", type=int, default=96)
    arguments = parser.parse_args(argv)
    begin()
    with tempfile.TemporaryDirectory(prefix="heed-overload-") as folder:
        base = base_of(arguments.size, arguments.base, Path(folder))
        answers = {"max_new_tokens": arguments.answer_tokens, "slowest_first_token": SLOWER}
        with served(settings_for(base, Path(folder) / "home", answers)) as server:
            rate, loads, back_s, after = asyncio.run(measured(server, arguments.seconds))
    print(f"{arguments.size}: {rate:.2f} answers a second of {arguments.answer_tokens} tokens")
    print_loads(loads)
    return print_goals(goals(loads, back_s, after))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
