"""What the serving benchmarks share: figures, goals, progress lines, the base policy."""

from __future__ import annotations

import argparse
import gc
import logging
import math
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from rlhf_engine import Prompt, fetch_base
from tests.benchmarks.ppo_vs_trl_setup import BASE_CACHE, SMOLLM2
from tests.tiny import tiny_base, tiny_tokenizer

TOPICS = ("leave", "travel", "laptops", "hotels", "pensions", "parking", "training", "visitors")
FLAT = 1.05
"""Memory that ends at no more than this many times what it was counts as flat."""
MORE_FILES = 4
"""Open files vary by a few: connections to the database come and go."""


@dataclass(frozen=True)
class Goal:
    """A figure with the most it may be, or the least with `at_least`; NaN misses every goal."""

    what: str
    value: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Held:
    """What a process and those it started hold at one moment."""

    rss_mb: float
    files: int

    @classmethod
    def by(cls, pid: int) -> Held:
        """Resident memory and open files of a process and of those it started."""
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        rss = sum(each.memory_info().rss for each in family)
        return cls(rss / 1e6, sum(each.num_fds() for each in family))

    def goals(self, before: Held) -> list[Goal]:
        """That nothing grew since `before`."""
        return [
            Goal("memory, of what it was", self.rss_mb / before.rss_mb, FLAT, "x"),
            Goal("open files more than before", self.files - before.files, MORE_FILES),
        ]


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def milliseconds(seconds: float, digits: int = 0) -> str:
    """Seconds as a table shows them; a dash for what was not measured."""
    return "–" if math.isnan(seconds) else f"{1e3 * seconds:.{digits}f}"


def note(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def print_table(table: Table) -> None:
    """On stdout, as wide as its cells need."""
    Console(width=120, highlight=False).print(table)


def print_goals(goals: Sequence[Goal]) -> int:
    """Say which goals are met; the exit code, 1 where one is not."""
    for goal in goals:
        relation = "at least" if goal.at_least else "at most"
        print(
            f"{'met' if goal.met else 'MISSED':6} {goal.what}: {goal.value:.4g}{goal.unit} "
            f"(goal: {relation} {goal.limit:g}{goal.unit})"
        )
    return 0 if all(goal.met for goal in goals) else 1


def add_size(parser: argparse.ArgumentParser) -> None:
    """The options that choose the base policy."""
    parser.add_argument("--size", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--base", type=Path, help="base policy's folder for --size smollm2")


def base_of(size: str, base: Path | None, folder: Path) -> Path:
    """The base policy of a size; the tiny one is made in `folder`."""
    return tireless(folder / "base") if size == "tiny" else fetch_base(base or SMOLLM2, BASE_CACHE)


def tireless(folder: Path) -> Path:
    """The tiny base policy, changed so that it hardly ever ends an answer by itself: all answers
    are then equally long, and a load is the same whatever is drawn."""
    tiny_base(folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][tiny_tokenizer().eos_token_id] = 0.0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def question(number: int) -> str:
    """A question that takes long to answer, another one for each number."""
    topic = TOPICS[number % len(TOPICS)]
    return f"Tell me all there is to know about {topic} in our company, case {number}, at length."


def prompt(number: int) -> Prompt:
    """The question as an engine is asked it."""
    return Prompt(f"q{number}", question(number))


def begin() -> None:
    """Before anything is measured: SIGTERM unwinds this process, so that it ends whatever it
    started; no log line but a warning costs time; and the many objects of the libraries loaded
    here are not looked through for garbage, which would hold up whoever asks by half a second."""
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    transformers_logging.disable_progress_bar()
