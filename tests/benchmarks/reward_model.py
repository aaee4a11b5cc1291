"""`python -m tests.benchmarks.reward_model`: how well are people's votes foretold?

Trains on votes of some questions, measures on those of others, beside the rule that the
longer answer wins. One head against an ensemble of three, over a shared adapter and over
separate ones. All rows of the table see the same votes. With `--seeds` each training of a row
holds out other questions, and a row has their means. Writes a picture with `--plot`.
With `--heads-alone` nothing is trained but heads: where is an answer best read?
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from rlhf_engine.statistics import Interval
from tests.benchmarks.reward_bench import (
    Votes,
    arguments,
    foretold,
    mean_of,
    measured,
    plan_of,
    read_sides,
)
from tests.benchmarks.reward_readings import DEPTHS, print_readings
from tests.benchmarks.seed_interval import between

GOAL = 0.60

VARIANTS: dict[str, dict[str, Any]] = {
    "one head": {"heads": 1},
    "three heads, shared adapter": {"heads": 3},
    "three heads, separate adapters": {"heads": 3, "separate_adapters": True},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 always, since a figure is no failure."""
    parser = arguments(str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--plot", type=Path, help="write accuracy and intervals as a PNG")
    parser.add_argument("--only", choices=sorted(VARIANTS), help="only this row of the table")
    parser.add_argument("--heads-alone", action="store_true", help="where to read an answer")
    parser.add_argument(
        "--depth", type=float, nargs="+", default=DEPTHS, help="with --heads-alone: only these"
    )
    options = parser.parse_args(argv)
    if options.heads_alone:
        print_readings(options)
        return 0
    sides = read_sides(options, options.seeds)
    rule = foretold([length_rule(votes) for votes in sides], sides)
    found: dict[str, Interval] = {}
    _print_head()
    print(f"{'the longer answer wins':31} {rule.value:8.3f} {between(rule)}")
    for name, reward in VARIANTS.items():
        if options.only in (None, name):
            rounds = [
                measured(plan_of(options, seed, **reward), votes, name)
                for seed, votes in enumerate(sides, 17)
            ]
            found[name] = foretold([each["accuracy"] for each in rounds], sides)
            _print_row(name, found[name], rounds)
    best = max(found, key=lambda name: found[name].value)
    ratio = found[best].value / rule.value
    print(f"\nbest: {best}, {ratio:.2f} times the length rule; goal {GOAL:.2f} and above")
    if options.plot:
        _plot(found, rule, options.plot)
    return 0


def length_rule(votes: Votes) -> float:
    """Accuracy of "the longer answer wins" on the held-out votes."""
    return sum(len(v.chosen) > len(v.rejected) for v in votes.held_out) / len(votes.held_out)


def _print_head() -> None:
    print(
        f"{'':31} {'accuracy':>8} {'95% interval':>14} {'ECE':>6} {'scaled':>6} {'spread':>6} "
        f"{'agree':>6} {'seconds':>8}"
    )


def _print_row(name: str, right: Interval, rounds: Sequence[dict[str, Any]]) -> None:
    figures = " ".join(
        f"{mean_of(rounds, key):6.3f}"
        for key in ("ece_before", "ece_after", "heads_spread", "heads_agree")
    )
    seconds = mean_of(rounds, "seconds")
    print(f"{name:31} {right.value:8.3f} {between(right)} {figures} {seconds:8.0f}", flush=True)


def _plot(found: dict[str, Interval], rule: Interval, path: Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 2 + 0.5 * len(found)))
    for at, (name, right) in enumerate(found.items()):
        axes.plot([right.lower, right.upper], [at, at], color="tab:blue")
        axes.plot(right.value, at, "o", color="tab:blue", label=name)
    axes.axvline(rule.value, color="grey", linestyle="--")
    axes.set_yticks(range(len(found)), list(found))
    axes.set_xlabel("accuracy on held-out votes (dashed: the longer answer wins)")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
