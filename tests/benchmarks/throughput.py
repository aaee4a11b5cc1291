"""Tokens a second and time to the first token, beside transformers and llama.cpp.

    python -m tests.benchmarks.throughput [--size smollm2 --base FOLDER] [--with-xllamacpp]

Every side answers the same questions greedily, with the same weights, number format and threads,
under 1, 4, 8 and 16 streams: the engine alone, the service over HTTP, transformers' `generate`
one answer after the other, and `transformers serve`. A side that cannot run says why. What the
service adds to a first token is what the asker waited less what the engine took for that very
question by its own clock: two sides minutes apart differ by more than what is looked for. It is
told for streams that all begin at one moment, the worst for it, and for as many that begin at
moments of their own, as people do. Ends with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from rich.table import Table

import rlhf_engine
from rlhf_engine.serving_engine import generate
from rlhf_engine.speed import faster_dtype
from service.settings import half_the_cores
from tests.benchmarks.serving_goals import (
    Goal,
    add_size,
    base_of,
    begin,
    milliseconds,
    note,
    print_goals,
    print_table,
    prompt,
    quantile,
)
from tests.benchmarks.serving_process import NotStartedError, served, settings_for
from tests.benchmarks.throughput_load import (
    Ask,
    Figures,
    added_by_service,
    engine_ask,
    engine_firsts,
    openai_ask,
    under_load,
)
from tests.benchmarks.throughput_peers import SequentialGenerate, llama, transformers_serve

GOAL_STREAMS, GOAL_SPEED, GOAL_ADDED_S, GOAL_PAIR = 8, 3.0, 0.020, 1.4
ENGINE, SERVICE, GENERATE = "engine", "service over HTTP", "generate, one by one"

Measured = dict[str, dict[int, Figures]]
"""By side, then by streams."""


class Bench:
    """What all sides share, and what was found."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.folder, self.streams = folder, tuple(arguments.streams)
        self.each, self.answer_tokens = arguments.questions, arguments.answer_tokens
        self.base = base_of(arguments.size, arguments.base, folder)
        self.threads = arguments.threads or half_the_cores()
        self.dtype = faster_dtype(self.base, self.threads)
        self.found: Measured = {}
        self.pair_ratio = math.nan
        self.judged = GOAL_STREAMS if GOAL_STREAMS in self.streams else max(self.streams)
        """Streams; where 8 were not asked for, the most that were."""
        self.added: dict[str, list[float]] = {}
        self.troubles: list[str] = []

    def engine(self) -> None:
        """The engine alone; also what a pair of answers costs."""
        engine = rlhf_engine.TorchEngine(self.base, dtype=self.dtype, threads=self.threads)
        engine.start()
        try:
            folder = self.folder / "policies"
            version = rlhf_engine.PolicyVersionFolder.store(None, self.base, folder, {})
            engine.load(version)
            asyncio.run(self._take(ENGINE, engine_ask(engine, version.id, self.answer_tokens)))
            self.pair_ratio = asyncio.run(self._pair(engine, version.id))
        finally:
            engine.stop()

    def service(self) -> None:
        """`heed serve`, asked by OpenAI's API."""
        answers: dict[str, Any] = {"max_new_tokens": self.answer_tokens}
        settings = settings_for(
            self.base, self.folder / "home", answers, dtype=self.dtype, threads=self.threads
        )
        with served(settings) as server:
            apart = asyncio.run(self._take_service(server.url))
        loads = {_streams(streams): figures for streams, figures in self.found[SERVICE].items()}
        loads[_streams(self.judged, apart=True)] = apart
        engine_s = engine_firsts(self.folder / "home" / "server.log")
        self.added = {load: added_by_service(loads[load], engine_s) for load in loads}

    def generate(self) -> None:
        """transformers' generate."""
        side = SequentialGenerate(self.base, self.dtype, self.threads, self.answer_tokens)
        side.answer(self.each * max(self.streams))
        self.found[GENERATE] = {streams: side.figures(streams) for streams in self.streams}

    def serve(self, *, batching: bool) -> None:
        """transformers' server."""
        log = self.folder / "transformers-serve.log"
        base, threads = self.base, self.threads
        with transformers_serve(base, self.dtype, threads, log, batching=batching) as url:
            name = "transformers serve" + (", continuous batching" if batching else "")
            asyncio.run(self._take_http(name, url, str(base), whole_prompt=True))

    def llama(self) -> None:
        """llama.cpp over 4-bit weights: other arithmetic, for the record."""
        with llama(self.threads, max(self.streams), self.folder / "llama.log") as url:
            asyncio.run(self._take_http("llama.cpp, Q4_1", url, "any", whole_prompt=True))

    def attempt(self, name: str, side: Callable[[], None]) -> None:
        """Run a peer; one that cannot run leaves its reason."""
        note(name)
        try:
            side()
        except (NotStartedError, OSError, httpx.HTTPError, TimeoutError, ExceptionGroup) as error:
            self.troubles.append(f"{name}: {error!r}"[:400])

    async def _take_service(self, url: str) -> Figures:
        """Every load; the figures of the one whose streams begin spread over one answer's time."""
        async with openai_ask(url, "heed", self.answer_tokens, whole_prompt=False) as ask:
            await self._take(SERVICE, ask)
            together = self.found[SERVICE][self.judged]
            apart_s = together.tokens / len(together.samples) / together.tokens_per_s
            return await under_load(ask, self.judged, self.each * self.judged, apart_s)

    async def _take_http(self, name: str, url: str, model: str, *, whole_prompt: bool) -> None:
        async with openai_ask(url, model, self.answer_tokens, whole_prompt=whole_prompt) as ask:
            await self._take(name, ask)

    async def _take(self, name: str, ask: Ask) -> None:
        await ask(0)  # warms up
        for streams in self.streams:
            figures = await under_load(ask, streams, self.each * streams)
            self.found.setdefault(name, {})[streams] = figures
            note(f"{name}, {streams} streams: {figures.tokens_per_s:.1f} tokens a second")

    async def _pair(self, engine: Any, version: str) -> float:
        """Seconds of a pair over those of one answer, in turn so that both meet the same load."""
        settings = rlhf_engine.SamplingSettings(temperature=0.0, max_new_tokens=self.answer_tokens)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for number in range(2 * self.each):
            for answers, taken in seconds.items():
                began = time.monotonic()
                seeds = list(range(answers))
                async for _ in generate(engine, version, prompt(number), settings, seeds):
                    pass
                taken.append(time.monotonic() - began)
        return median(seconds[2]) / median(seconds[1])

    def goals(self) -> list[Goal]:
        """What is judged."""
        at = self.judged
        ours, plain = self.found[ENGINE][at], self.found[GENERATE][at]
        speed = ours.tokens_per_s / plain.tokens_per_s
        return [
            Goal(f"engine over generate at {at} streams", speed, GOAL_SPEED, "x", at_least=True),
            *(self._added_goal(_streams(at, apart=apart)) for apart in (True, False)),
            Goal("a pair of answers over one", self.pair_ratio, GOAL_PAIR, "x"),
        ]

    def _added_goal(self, load: str) -> Goal:
        name = f"added to the first token by the service, p95, at {load}"
        return Goal(name, 1e3 * quantile(self.added[load], 0.95), 1e3 * GOAL_ADDED_S, " ms")


def _streams(count: int, *, apart: bool = False) -> str:
    """A load's name."""
    return f"{count} streams" + (" that begin apart" if apart else "")


def print_found(bench: Bench) -> None:
    """The table, and why a side is missing."""
    table = Table("streams", "side", "tokens/s", "over generate", "first token p50, ms", "p95, ms")
    for streams in bench.streams:
        plain = bench.found[GENERATE][streams].tokens_per_s
        for name, by_streams in bench.found.items():
            if streams not in by_streams:
                continue
            each = by_streams[streams]
            speed = f"{each.tokens_per_s:.1f}", f"{each.tokens_per_s / plain:.2f}x"
            firsts = milliseconds(each.first_p50_s), milliseconds(each.first_p95_s)
            table.add_row(str(streams), name, *speed, *firsts)
        table.add_section()
    print_table(table)
    for trouble in bench.troubles:
        print(f"could not run: {trouble}")
    for load, added in bench.added.items():
        p50, p95 = (milliseconds(quantile(added, share), 1) for share in (0.5, 0.95))
        print(f"{load}: the service adds {p50} ms to a first token, p95 {p95} ms")


@contextmanager
def bench_of(arguments: argparse.Namespace) -> Iterator[Bench]:
    """A bench in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="heed-throughput-") as folder:
        yield Bench(arguments, Path(folder))


def main(argv: Sequence[str]) -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.throughput")
    add_size(parser)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--questions", type=int, default=6, help="a stream")
    parser.add_argument("--answer-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, help="of every side (default: half the cores)")
    parser.add_argument("--without-serve", action="store_true", help="leave transformers serve out")
    parser.add_argument("--with-xllamacpp", action="store_true", help="llama.cpp, SmolLM2 only")
    arguments = parser.parse_args(argv)
    begin()
    with bench_of(arguments) as bench:
        bench.engine()
        bench.service()
        bench.generate()
        if not arguments.without_serve:
            bench.attempt("transformers serve, batching", lambda: bench.serve(batching=True))
            bench.attempt("transformers serve", lambda: bench.serve(batching=False))
        if arguments.with_xllamacpp and arguments.size == "smollm2":
            bench.attempt("llama.cpp", bench.llama)
        print(
            f"{arguments.size}: answers of at most {arguments.answer_tokens} tokens, "
            f"{bench.dtype}, {bench.threads} threads"
        )
        print_found(bench)
        return print_goals(bench.goals())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
