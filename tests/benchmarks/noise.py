"""`python -m tests.benchmarks.noise`: what do flipped votes cost the reward model?

A share of the votes to learn from is turned round; the held-out votes stay as people gave
them. Without defences: one head, every vote taken for certain. With them: the engine's
defaults. Each share flips the votes that the smaller one flips, and more.

One training a row says little where a few held-out votes decide. With `--seeds` each training holds
out other questions, and a row has their means. `--draws` adds a table of the heads that training
begins with (noise_heads.py), over so many draws of flips; `--heads-alone` prints no other.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from rlhf_engine import Comparison
from tests.benchmarks.noise_heads import print_heads
from tests.benchmarks.reward_bench import Votes, arguments, mean_of, measured, plan_of, read_sides
from tests.benchmarks.seed_interval import between, seed_interval

SHARES = (0.0, 0.1, 0.25)
MOST_LOST = 0.02
DRAWS = 20

DEFENCES: dict[str, dict[str, Any]] = {
    "off": {
        "heads": 1,
        "label_noise": 0.0,
        "rater_cap": 1.0,
        "centre_coefficient": 0.0,
        "watched_percent": 0,
    },
    "on": {},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 always, since a figure is no failure."""
    parser = arguments(str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--draws", type=int, default=0, help="of flips, for the heads alone")
    parser.add_argument("--heads-alone", action="store_true", help="train no adapter")
    parser.add_argument("--defences", choices=sorted(DEFENCES), help="only trainings with these")
    options = parser.parse_args(argv)
    lost = [] if options.heads_alone else trained(options)
    if options.draws or options.heads_alone:
        options.draws = options.draws or DRAWS
        lost.append(print_heads(options, SHARES[1:], flipped))
    if lost:
        print(f"\nmost lost with the defences on: {max(lost):.3f}; goal at most {MOST_LOST:.2f}")
    return 0


def trained(options: argparse.Namespace) -> list[float]:
    """The table of whole trainings; what each share cost with the defences on."""
    sides = read_sides(options, options.seeds)
    print(
        f"{'flipped':>8} {'defences':>9} {'accuracy':>9} {'lost':>7} {'95% interval':>17} "
        f"{'ECE':>6} {'seconds':>8}"
    )
    lost = []
    for name in [options.defences] if options.defences else DEFENCES:
        clean: list[float] = []
        for share in SHARES:
            rounds = _trainings(options, sides, share, name)
            right = [each["accuracy"] for each in rounds]
            clean = clean or right
            fell = seed_interval([own - each for own, each in zip(clean, right, strict=True)])
            if name == "on":
                lost.append(fell.value)
            figures = f"{mean_of(rounds, 'ece_before'):6.3f} {mean_of(rounds, 'seconds'):8.0f}"
            print(
                f"{share:8.0%} {name:>9} {fmean(right):9.3f} {fell.value:7.3f} "
                f"{between(fell):>17} {figures}",
                flush=True,
            )
    return lost


def _trainings(
    options: argparse.Namespace, sides: Sequence[Votes], share: float, defences: str
) -> list[dict[str, Any]]:
    """One measured training on each side, `share` of its votes flipped."""
    return [
        measured(
            plan_of(options, seed, **DEFENCES[defences]),
            flipped(votes, share, seed),
            f"{share:.0%} flipped, defences {defences}",
        )
        for seed, votes in enumerate(sides, 17)
    ]


def flipped(votes: Votes, share: float, seed: int) -> Votes:
    """The same votes, but `share` of the clear choices to learn from are turned round."""
    order = [at for at, vote in enumerate(votes.train) if vote.decisive]
    random.Random(seed).shuffle(order)
    turned = set(order[: round(share * len(order))])
    train = [_turned(vote) if at in turned else vote for at, vote in enumerate(votes.train)]
    return Votes(tuple(train), votes.held_out)


def _turned(vote: Comparison) -> Comparison:
    return replace(vote, outcome="b" if vote.outcome == "a" else "a")


if __name__ == "__main__":
    sys.exit(main())
