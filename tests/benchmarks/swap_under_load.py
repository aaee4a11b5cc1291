"""Policy versions are swapped under a steady load: is any answer lost, cut off or mixed?

    python -m tests.benchmarks.swap_under_load [--swaps 1000] [--http]
    python -m tests.benchmarks.swap_under_load --size smollm2 --base FOLDER --swaps 20

Each swap is the service's own: load beside the live version, ask the smoke questions, move the
alias, retire what is unused. Afterwards every answer is made again alone, on the version it says
it is from, and compared token by token: a token from another version would show. Ends with 1
where a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.table import Table
from transformers import AutoConfig

from rlhf_engine.speed import faster_dtype
from service.settings import half_the_cores
from tests.benchmarks import swap_in_process, swap_over_http
from tests.benchmarks.serving_goals import (
    add_size,
    base_of,
    begin,
    milliseconds,
    note,
    print_goals,
    print_table,
    quantile,
)
from tests.benchmarks.serving_process import settings_for
from tests.benchmarks.swap_records import AnswerFile, Outcome, replay, take_gaps

ANSWER_TOKENS = 48


def measured(arguments: argparse.Namespace, folder: Path) -> Outcome:
    """The load, then the replay of its answers."""
    base = base_of(arguments.size, arguments.base, folder)
    threads = arguments.threads or half_the_cores()
    # Chosen here, so that the replay computes in the same.
    dtype = faster_dtype(base, threads)
    answers = {"max_new_tokens": ANSWER_TOKENS, "temperature": 1.0}
    settings = settings_for(base, folder / "home", answers, dtype=dtype, threads=threads)
    file = AnswerFile(folder / "answers.jsonl")
    mode = swap_over_http if arguments.http else swap_in_process
    outcome = mode.run(settings, base, arguments.swaps, arguments.streams, file)
    take_gaps(outcome, file)
    end = AutoConfig.from_pretrained(base).eos_token_id
    outcome.truncated = sum(answer.truncated(end) for answer in file)
    note(f"replaying {arguments.replay_share:.0%} of {outcome.asked} answers")
    replay(outcome, file, settings.policies, base, (dtype, threads), arguments.replay_share)
    return outcome


def print_outcome(outcome: Outcome) -> None:
    """The table."""
    table = Table("", "without a swap", "with a swap")
    gaps = outcome.gaps_without, outcome.gaps_with
    table.add_row("waits between tokens", *(f"{len(each):,}" for each in gaps))
    for share in (0.5, 0.99):
        cells = (milliseconds(quantile(each, share), 1) for each in gaps)
        table.add_row(f"p{100 * share:.0f}, ms", *cells)
    table.add_section()
    table.add_row("", "after a tenth", "at the end")
    early, late = outcome.early, outcome.late
    table.add_row("memory (RSS), MB", f"{early.rss_mb:.0f}", f"{late.rss_mb:.0f}")
    table.add_row("open files", str(early.files), str(late.files))
    print_table(table)
    seconds = median(swap.ended - swap.began for swap in outcome.swaps) if outcome.swaps else 0.0
    print(
        f"{len(outcome.swaps)} swaps of {1e3 * seconds:.0f} ms (median), {outcome.asked} answers "
        f"by {len(outcome.versions)} versions, {outcome.replayed} replayed"
    )
    for trouble in [*outcome.refused, *outcome.dropped, *outcome.mixed][:10]:
        print(f"  went wrong: {trouble}")


def main(argv: Sequence[str]) -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.swap_under_load")
    add_size(parser)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--http", action="store_true", help="at the real server, over HTTP")
    parser.add_argument("--replay-share", type=float, default=1.0, help="of the answers")
    parser.add_argument("--threads", type=int, help="of the engine (default: half the cores)")
    arguments = parser.parse_args(argv)
    begin()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="heed-swaps-") as folder:
        outcome = measured(arguments, Path(folder))
    where = "over HTTP" if arguments.http else "in one process"
    print(f"{arguments.size}, {where}, {arguments.streams} streams", end=", ")
    print(f"{time.monotonic() - began:.0f} s in all")
    print_outcome(outcome)
    return print_goals(outcome.goals(gap=arguments.size == "tiny"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
