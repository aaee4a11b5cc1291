"""A tiny cycle is killed at random points and resumed: is its end that of one never killed?

    python -m tests.benchmarks.resume [--kills 200] [--seed 0]

A kill falls at a random moment of what is left of the run (SIGKILL), right before a random
write (SIGKILL), or in the middle of a file's content (the kernel ends a process whose file
reaches a limit). A run is killed one to six times before it may end. Then every file of it
is compared with those of a run that was never killed: adapters, reward model, critic, answers
and verdict byte by byte, reports and metrics without their times, and nothing left over.
Ends with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_engine.run_folder import RunFolder
    from tests.benchmarks.resume_kills import How, Kill, Traced

AFTER_ALL_STAGES = "candidate"
HOWS: tuple[How, ...] = ("moment", "write", "cut")
LONGEST_CUT = 50_000
MOST_KILLS_A_RUN = 6


@dataclass
class Tally:
    """Kills by (stage, how), those whose run ended alike by stage, and what differed."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    identical: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    different: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Kills so far."""
        return sum(self.kills.values())


class Bench:
    """Runs in one folder, over one base policy, beside one that was never killed."""

    def __init__(self, folder: Path, seed: int) -> None:
        from tests.benchmarks.resume_compare import contents, differences
        from tests.benchmarks.resume_kills import (
            FailedError,
            done,
            in_child,
            preload,
            uninterrupted_try,
        )
        from tests.tiny import tiny_base

        self.folder, self.errors = folder, folder / "errors"
        self.draws, self.pace = random.Random(seed), 1.0
        done(in_child(lambda: _discard(tiny_base(folder / "base")), self.errors), self.errors)
        first = self._fresh("first")
        preload(uninterrupted_try(first.path, self.errors).modules)
        self.never_killed = self._fresh("never-killed")
        self.traced: Traced = uninterrupted_try(self.never_killed.path, self.errors)
        self.stages = [*first.plan().stages, AFTER_ALL_STAGES]
        apart = differences(contents(first), contents(self.never_killed))
        if apart:
            raise FailedError(f"two runs that nobody killed differ in {apart}, without any kill")

    def one_run(self, tally: Tally, most_kills: int) -> None:
        """Kill and resume a fresh run until it ends, and compare it."""
        from tests.benchmarks.resume_compare import contents, differences
        from tests.benchmarks.resume_kills import Kill, killed_try

        run, fell = self._fresh(f"run-{tally.runs}"), []
        for number in range(most_kills):
            kill = self._drawn_kill(HOWS[(tally.total + number) % len(HOWS)], self._stage_of(run))
            if killed_try(run.path, kill, self.errors):
                # A run that ends before its moment is faster than the one that was timed.
                self.pace *= 0.9 if kill.how == "moment" else 1.0
                break
            fell.append((self._stage_of(run), kill.how))
        else:
            killed_try(run.path, Kill("write", write=-1), self.errors)
        different = differences(contents(self.never_killed), contents(run))
        tally.runs += 1
        tally.kills.update(fell)
        if different:
            tally.different.append(f"{run.path.name}, killed in {fell}: {', '.join(different)}")
        else:
            tally.identical.update(stage for stage, _ in fell)
            shutil.rmtree(run.path)

    def _fresh(self, name: str) -> RunFolder:
        from rlhf_engine.plan import RewardPlan, SftPlan
        from tests.rlhf_engine.runs import tiny_plan, tiny_run

        short = {
            "sft": SftPlan(epochs=1, learning_rate=3e-3),
            "reward_model": RewardPlan(epochs=1, learning_rate=3e-3),
        }
        return tiny_run(self.folder / name, tiny_plan(self.folder / "base", **short))

    def _stage_of(self, run: RunFolder) -> str:
        """The stage that the run is in: the first without a marker."""
        return next(
            (stage for stage in self.stages[:-1] if run.report(stage) is None), self.stages[-1]
        )

    def _drawn_kill(self, how: How, stage: str) -> Kill:
        """A kill of a run that is in this stage: there or, as often, in each later one."""
        from tests.benchmarks.resume_kills import Kill

        now = self.stages.index(stage)
        chosen = self.draws.randrange(now, len(self.stages))
        (begun_s, begun), (first_s, first), (last_s, last) = (
            self._begin_of(at) for at in (now, chosen, chosen + 1)
        )
        return Kill(
            how,
            after_s=self.pace * (self.draws.uniform(first_s, last_s) - begun_s),
            write=self.draws.randint(first + 1, last) - begun,
            length=int(LONGEST_CUT ** self.draws.random()) - 1,
        )

    def _begin_of(self, number: int) -> tuple[float, int]:
        """Second and number of writes at which the run never killed came to a stage; to its end
        with the number after the last."""
        if number == len(self.stages):
            return self.traced.seconds, len(self.traced.writes)
        markers = tuple(f"{name}/.done" for name in self.stages[:number])
        written = enumerate(self.traced.writes, start=1)
        begins = [(second, at) for at, (second, name) in written if name.startswith(markers)]
        return max(begins, default=(0.0, 0))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 where a run ended otherwise than the one never killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.resume")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    one_thread()
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="heed-resume-"))
    bench, tally = Bench(folder, options.seed), Tally()
    while tally.total < options.kills:
        most = min(bench.draws.randint(1, MOST_KILLS_A_RUN), options.kills - tally.total)
        bench.one_run(tally, most)
        sys.stderr.write(f"{tally.total} kills, {tally.runs} runs\n")
    sys.stdout.write(_table(tally, bench.stages, time.monotonic() - started))
    if tally.different:
        sys.stdout.write(f"The runs that differ are kept in {folder}\n")
        return 1
    shutil.rmtree(folder)
    return 0


def one_thread() -> None:
    """Before torch is loaded: a process that has started threads cannot be forked."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)


def _table(tally: Tally, stages: Sequence[str], seconds: float) -> str:
    heads = ("killed in", "at a moment", "before a write", "inside a file", "kills", "identical")
    rows = [_row(tally, stage, stage) for stage in stages]
    rows.append(_row(tally, "all", *stages))
    lines = [f"{heads[0]:14}" + "".join(f"{head:>16}" for head in heads[1:])]
    lines += [f"{name:14}" + "".join(f"{number:16}" for number in row) for name, *row in rows]
    lines.append(f"{tally.runs} runs in {seconds:.0f} s, each killed until its kills were spent")
    return "\n".join([*lines, *tally.different]) + "\n"


def _row(tally: Tally, name: str, *stages: str) -> tuple[str, *tuple[int, ...]]:
    by_how = [sum(tally.kills[stage, how] for stage in stages) for how in HOWS]
    return (name, *by_how, sum(by_how), sum(tally.identical[stage] for stage in stages))


def _discard(_: object) -> None:
    """Make a function that returns something one that returns nothing."""


if __name__ == "__main__":
    sys.exit(main())
