"""A publish is killed at every step: is there always exactly one live version that loads?

    python -m tests.benchmarks.crash [--kills 200] [--restarts 5] [--seed 0]

A publish stores a version, registers it, makes it the candidate, and promotes it: by a server
that loads and tries it, or without one. Half of the kills fall right before a step (a write to
a policy's file, a statement that writes rows, a commit), each step in turn; a quarter at a
random moment; a quarter inside a file's content. All of them happen to one deployment, which
goes on after each. After each kill, one alias must name one version, its state and the last
promotion must agree, and it must load and answer. Then a server is killed and started again:
how long until it answers? Ends with 1 where anything was torn.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.resume import one_thread

if TYPE_CHECKING:
    from tests.benchmarks.crash_publish import Home, Way
    from tests.benchmarks.resume_kills import How, Kill

RESTART_GOAL_S = 5.0
ROOT = Path(__file__).parents[2]
PACKAGES = ("service", "plugins", "rlhf_engine")
HOWS: tuple[How, ...] = ("write", "moment", "write", "cut")
LONGEST_CUT = 5_000


@dataclass
class Tally:
    """Kills by (way, how), how many went live nevertheless, and what was torn."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    went_live: Counter[str] = field(default_factory=Counter)
    torn: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Kills so far."""
        return sum(self.kills.values())


class Bench:
    """One deployment, its publishes numbered, and the steps of an uninterrupted one by way."""

    def __init__(self, folder: Path, seed: int) -> None:
        from tests.benchmarks.crash_publish import WAYS, Home, trace
        from tests.benchmarks.resume_kills import done, in_child, preload

        self.home, self.errors = Home(folder), folder / "errors"
        self.draws, self.published = random.Random(seed), 0
        self.steps: dict[Way, list[str]] = {}
        self.seconds: dict[Way, float] = {}
        self._turn: Counter[Way] = Counter()
        done(in_child(self.home.make, self.errors), self.errors)
        told = folder / "trace.json"
        for way in (*WAYS, *WAYS):
            number = self._next()
            done(in_child(partial(trace, self.home, number, way, told), self.errors), self.errors)
            # The second time everything was loaded before.
            self.steps[way], self.seconds[way], modules = json.loads(told.read_text())
            preload(modules)
        self.live = self._look()

    def one_kill(self, tally: Tally) -> None:
        """Kill one publish and look at what is left."""
        from tests.benchmarks.crash_publish import WAYS, killed_publish
        from tests.benchmarks.resume_kills import killed

        number = self._next()
        way = WAYS[number % 2]
        how = HOWS[number // 2 % len(HOWS)]
        kill = self._drawn_kill(way, how)
        ended = killed(
            lambda tells: killed_publish(self.home, number, way, kill, tells), kill, self.errors
        )
        shutil.rmtree(self.home.folder / "variants" / str(number))
        if ended:
            return
        tally.kills[way, how] += 1
        try:
            live = self._look()
        except ValueError as error:
            tally.torn.append(f"kill {tally.total}, {way}, {kill}: {error}")
            return
        tally.went_live[way] += live != self.live
        self.live = live

    def _next(self) -> int:
        self.published += 1
        return self.published

    def _drawn_kill(self, way: Way, how: How) -> Kill:
        from tests.benchmarks.resume_kills import Kill

        steps = self.steps[way]
        if how == "moment":
            # The child says when, since it alone knows when its first step is.
            return Kill("write", after_s=self.draws.uniform(0, self.seconds[way]))
        if how == "write":
            self._turn[way] += 1
            return Kill("write", write=(self._turn[way] - 1) % len(steps) + 1)
        files = [at for at, name in enumerate(steps, start=1) if name.startswith(os.sep)]
        length = int(LONGEST_CUT ** self.draws.random()) - 1
        return Kill("cut", write=self.draws.choice(files), length=length)

    def _look(self) -> str:
        from tests.benchmarks.resume_kills import FailedError, done, in_child

        told = self.home.folder / "live"
        try:
            done(in_child(lambda: _tell(told, self.home.look()), self.errors), self.errors)
        except FailedError as error:
            raise ValueError(str(error).strip().splitlines()[-1]) from error
        return told.read_text()


def restarts(home: Home, count: int) -> list[float]:
    """Seconds from the start of a server to the end of its first answer, each killed after."""
    from tests.journeys.server import Visitor

    for package in PACKAGES:  # an installed package is compiled, and so is what is measured
        compileall.compile_dir(ROOT / package, quiet=1)
    seconds = []
    for _ in range(count):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        began = time.monotonic()
        server = _serve(home, port)
        try:
            with Visitor(base_url=f"http://127.0.0.1:{port}", timeout=60) as visitor:
                visitor.headers["sec-fetch-site"] = "same-origin"
                _until_ready(visitor)
                assert visitor.ask("Who signs my travel expenses?").last == "done"
            seconds.append(time.monotonic() - began)
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()
    return seconds


def _serve(home: Home, port: int) -> subprocess.Popen[bytes]:
    settings = home.settings
    environment = {
        "HEED_HOME": str(settings.home),
        "HEED_BASE_POLICY": settings.base_policy,
        "HEED_THREADS": "1",
        "HEED_DTYPE": "float32",
        "HEED_VISITORS": "employee",
        "HEED_ANSWERS__MAX_NEW_TOKENS": "8",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve", "--port", str(port)],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _until_ready(visitor: object, longest_s: float = 120) -> None:
    import httpx

    assert isinstance(visitor, httpx.Client)
    began = time.monotonic()
    while True:
        try:
            if visitor.get("/health/ready").status_code == 200:
                visitor.get("/api/me").raise_for_status()
                return
        except httpx.TransportError:
            pass
        if time.monotonic() - began > longest_s:
            raise TimeoutError(f"no server was ready within {longest_s} s")
        time.sleep(0.02)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 where a kill left anything but one live version that loads."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.crash")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    one_thread()
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="heed-crash-"))
    bench, tally = Bench(folder, options.seed), Tally()
    while tally.total < options.kills:
        bench.one_kill(tally)
        sys.stderr.write(f"\r{tally.total} kills")
    sys.stderr.write("\n")
    waits = restarts(bench.home, options.restarts)
    sys.stdout.write(_table(bench, tally, waits, time.monotonic() - started))
    if tally.torn:
        sys.stdout.write(f"The deployment is kept in {folder}\n")
        return 1
    shutil.rmtree(folder)
    return 0


def _table(bench: Bench, tally: Tally, waits: Sequence[float], seconds: float) -> str:
    heads = ("promoted", "steps", "before a step", "at a moment", "inside a file", "went live")
    lines = [f"{heads[0]:18}" + "".join(f"{head:>16}" for head in heads[1:])]
    for way, steps in bench.steps.items():
        by_how = [tally.kills[way, how] for how in ("write", "moment", "cut")]
        row = (len(steps), *by_how, tally.went_live[way])
        lines.append(f"{way:18}" + "".join(f"{number:16}" for number in row))
    whole = tally.total - len(tally.torn)
    lines.append(f"all: {tally.total} kills, {whole} left one live version; {seconds:.0f} s")
    if waits:
        lines.append(
            f"restart to the first answer: {max(waits):.1f} s at most of {len(waits)}, "
            f"goal {RESTART_GOAL_S:.0f} s"
        )
    return "\n".join([*lines, *tally.torn]) + "\n"


def _tell(path: Path, text: str) -> None:
    path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
