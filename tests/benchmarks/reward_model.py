"""`python -m tests.benchmarks.reward_model`: how well are people's votes foretold?

Trains on votes of some questions, measures on those of others, beside the rule that the
longer answer wins. One head against an ensemble of three, over a shared adapter and over
separate ones. All rows of the table see the same votes. Writes a picture with `--plot`.
With `--heads-alone` nothing is trained but heads: where is an answer best read?
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from rlhf_engine.statistics import share_interval
from tests.benchmarks.reward_bench import Votes, arguments, mean_of, measured, plan_of, read_votes
from tests.benchmarks.reward_readings import DEPTHS, print_readings

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
    votes = read_votes(options)
    print(f"{len(votes.train)} votes to learn from, {len(votes.held_out)} on other questions")
    if options.heads_alone:
        print_readings(options)
        return 0
    found = {}
    _print_head()
    _print_rule(votes)
    for name, reward in VARIANTS.items():
        if options.only in (None, name):
            rounds = [
                measured(plan_of(options, 17 + seed, **reward), votes, name)
                for seed in range(options.seeds)
            ]
            found[name] = rounds
            _print_row(name, rounds)
    _print_verdict(found, votes)
    if options.plot:
        _plot(found, votes, options.plot)
    return 0


def length_rule(votes: Votes) -> float:
    """Accuracy of "the longer answer wins" on the held-out votes."""
    return sum(len(v.chosen) > len(v.rejected) for v in votes.held_out) / len(votes.held_out)


def _print_head() -> None:
    print(
        f"{'':31} {'accuracy':>8} {'95% interval':>14} {'ECE':>6} {'scaled':>6} {'spread':>6} "
        f"{'agree':>6} {'seconds':>8}"
    )


def _print_rule(votes: Votes) -> None:
    count = len(votes.held_out)
    share = share_interval(round(length_rule(votes) * count), count)
    print(f"{'the longer answer wins':31} {share.value:8.3f} {_interval(share.lower, share.upper)}")


def _print_row(name: str, rounds: Sequence[dict[str, Any]]) -> None:
    low, high = _mean_interval(rounds)
    figures = " ".join(
        f"{mean_of(rounds, key):6.3f}"
        for key in ("ece_before", "ece_after", "heads_spread", "heads_agree")
    )
    accuracy, seconds = mean_of(rounds, "accuracy"), mean_of(rounds, "seconds")
    print(f"{name:31} {accuracy:8.3f} {_interval(low, high)} {figures} {seconds:8.0f}", flush=True)


def _print_verdict(found: dict[str, list[dict[str, Any]]], votes: Votes) -> None:
    best = max(found, key=lambda name: mean_of(found[name], "accuracy"))
    ratio = mean_of(found[best], "accuracy") / length_rule(votes)
    print(f"\nbest: {best}, {ratio:.2f} times the length rule; goal {GOAL:.2f} and above")


def _mean_interval(rounds: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The interval of one training; of several, the mean of its ends (votes vary, not seeds)."""
    ends = [each["accuracy_interval"] for each in rounds]
    return sum(low for low, _ in ends) / len(ends), sum(high for _, high in ends) / len(ends)


def _interval(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"


def _plot(found: dict[str, list[dict[str, Any]]], votes: Votes, path: Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 2 + 0.5 * len(found)))
    for at, (name, rounds) in enumerate(found.items()):
        low, high = _mean_interval(rounds)
        axes.plot([low, high], [at, at], color="tab:blue")
        axes.plot(mean_of(rounds, "accuracy"), at, "o", color="tab:blue", label=name)
    axes.axvline(length_rule(votes), color="grey", linestyle="--")
    axes.set_yticks(range(len(found)), list(found))
    axes.set_xlabel("accuracy on held-out votes (dashed: the longer answer wins)")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
