"""A stream of tokens beside a training run: how much longer is each token waited for?

    python -m tests.benchmarks.while_training [--rounds 6] [--size smollm2 --base FOLDER]

The real server answers one question after the other over HTTP. Phases without and with a
training run take turns; the run works in the service's own worker process, with the threads and
the priority that the service gives it, and begins anew where it ends. Ends with 1 where the
goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.table import Table

from rlhf_engine.plan import PpoPlan, RewardPlan, RunPlan, SftPlan
from service.settings import TrainingSettings
from service.worker import DONE
from service.worker_process import WorkerProcess
from tests.benchmarks.serving_client import Asker, new_askers
from tests.benchmarks.serving_goals import (
    Goal,
    add_size,
    base_of,
    begin,
    milliseconds,
    note,
    print_goals,
    print_table,
    quantile,
    question,
)
from tests.benchmarks.serving_process import last_words, served, settings_for
from tests.rlhf_engine.runs import tiny_plan, tiny_run

GOAL = 2.0
WORKS_S = 300.0
"""A worker that has not begun to train after this is given up."""


class Training:
    """Training runs, one after the other, in the service's worker process."""

    def __init__(self, folder: Path, plan: RunPlan) -> None:
        self._folder, self._plan, self._runs = folder, plan, 0
        self._settings = TrainingSettings()
        self._worker: WorkerProcess | None = None

    @contextmanager
    def going(self) -> Iterator[None]:
        """Train until the block ends. The worker dies with the thread that starts it."""
        self.keep_going()
        try:
            until = time.monotonic() + WORKS_S
            while not self._begun() and time.monotonic() < until:
                time.sleep(0.1)
                self.keep_going()
            yield
        finally:
            if self._worker is not None:
                self._worker.kill()
                self._worker = None

    def keep_going(self) -> None:
        """Begin a fresh run where none is going; SystemExit where the last one failed."""
        code = None if self._worker is None else self._worker.wait(0.0)
        if self._worker is not None and code is None:
            return
        if code not in (None, DONE):
            raise SystemExit(f"the training run failed: {last_words(self._run / 'worker.log')}")
        self._runs += 1
        run = tiny_run(self._run, self._plan)
        settings = self._settings
        self._worker = WorkerProcess.start(run.path, settings.niceness, settings.threads)

    @property
    def _run(self) -> Path:
        return self._folder / f"run-{self._runs}"

    def _begun(self) -> bool:
        """Whether libraries and weights are loaded and a stage reports its steps."""
        return (self._run / "progress.json").exists()


@dataclass
class Waits:
    """Seconds between tokens, and to first tokens."""

    gaps: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


async def listen(asker: Asker, seconds: float, waits: Waits, training: Training | None) -> None:
    """One question after the other for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        heard = await asker.ask(question(len(waits.firsts)))
        if not heard.ended:
            waits.failed.append(heard.trouble)
            await asyncio.sleep(0.5)
            continue
        waits.firsts.append(heard.first_token_s)
        waits.gaps += [after - before for before, after in heard.gaps]
        if training is not None:
            training.keep_going()


def measured(url: str, training: Training, rounds: int, seconds: float) -> tuple[Waits, Waits]:
    """Phases without and with training in turn."""
    idle, busy = Waits(), Waits()

    async def phase(waits: Waits, beside: Training | None) -> None:
        (asker,) = await new_askers(url, 1)
        await listen(asker, seconds, waits, beside)

    asyncio.run(phase(Waits(), None))  # warms up
    for at in range(rounds):
        asyncio.run(phase(idle, None))
        with training.going():
            asyncio.run(phase(busy, training))
        note(f"round {at + 1}: {quantile(busy.gaps, 0.95) / quantile(idle.gaps, 0.95):.2f} times")
    return idle, busy


def plan_of(size: str, base: Path) -> RunPlan:
    """A plan of all stages; with the real base policy as long and as large as a deployment's."""
    plan = tiny_plan(base)
    threads = TrainingSettings().threads
    if size == "tiny":
        return replace(plan, threads=threads)
    return RunPlan(
        base=str(base),
        threads=threads,
        sft=SftPlan(),
        reward_model=RewardPlan(min_comparisons=plan.reward_model.min_comparisons),
        ppo=PpoPlan(),
    )


def print_waits(idle: Waits, busy: Waits) -> None:
    """The table."""
    table = Table("ms", "no training", "training", "ratio")
    rows = [(f"between tokens, p{100 * p:.0f}", idle.gaps, busy.gaps, p) for p in (0.5, 0.95, 0.99)]
    rows.append(("first token, p95", idle.firsts, busy.firsts, 0.95))
    for name, alone, beside, share in rows:
        before, after = quantile(alone, share), quantile(beside, share)
        table.add_row(
            name, *(milliseconds(s, 1) for s in (before, after)), f"{after / before:.2f}x"
        )
    print_table(table)
    print(f"{len(idle.firsts)} answers without training, {len(busy.firsts)} with")
    for trouble in [*idle.failed, *busy.failed][:5]:
        print(f"  went wrong: {trouble}")


def goals(idle: Waits, busy: Waits) -> list[Goal]:
    """What is judged."""
    ratio = quantile(busy.gaps, 0.95) / quantile(idle.gaps, 0.95)
    lost = len(idle.failed) + len(busy.failed)
    return [
        Goal("gap between tokens, p95, of idle's", ratio, GOAL, "x"),
        Goal("lost answers", lost, 0),
    ]


def main(argv: Sequence[str]) -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.while_training")
    add_size(parser)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase")
    parser.add_argument("--answer-tokens", type=int, default=96)
    arguments = parser.parse_args(argv)
    begin()
    with tempfile.TemporaryDirectory(prefix="heed-while-training-") as folder:
        base = base_of(arguments.size, arguments.base, Path(folder))
        training = Training(Path(folder), plan_of(arguments.size, base))
        answers = {"max_new_tokens": arguments.answer_tokens}
        with served(settings_for(base, Path(folder) / "home", answers)) as server:
            found = measured(server.url, training, arguments.rounds, arguments.seconds)
    given = TrainingSettings()
    print(f"{arguments.size}: training with {given.threads} threads at niceness {given.niceness}")
    print_waits(*found)
    return print_goals(goals(*found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
