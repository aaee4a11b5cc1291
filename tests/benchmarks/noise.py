"""`python -m tests.benchmarks.noise`: what do flipped votes cost the reward model?

A share of the votes to learn from is turned round; the held-out votes stay as people gave
them. Without defences: one head, every vote taken for certain. With them: the engine's
defaults. Each share flips the votes that the smaller one flips, and more.

One training a row says little where a few held-out votes decide. `--draws` adds a table of the
heads that training begins with (noise_heads.py), over so many draws of flips; `--heads-alone`
prints no other.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlhf_engine import Comparison
from tests.benchmarks.noise_heads import print_heads
from tests.benchmarks.reward_bench import Votes, arguments, mean_of, measured, plan_of, read_votes

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
    options = parser.parse_args(argv)
    votes = read_votes(options)
    print(f"{len(votes.train)} votes to learn from, {len(votes.held_out)} on other questions")
    lost = [] if options.heads_alone else trained(options, votes)
    if options.draws or options.heads_alone:
        options.draws = options.draws or DRAWS
        lost.append(print_heads(options, SHARES[1:], flipped))
    print(f"\nmost lost with the defences on: {max(lost):.3f}; goal at most {MOST_LOST:.2f}")
    return 0


def trained(options: argparse.Namespace, votes: Votes) -> list[float]:
    """The table of whole trainings; what each share cost with the defences on."""
    print(f"{'flipped':>8} {'defences':>9} {'accuracy':>9} {'lost':>7} {'ECE':>6} {'seconds':>8}")
    lost = []
    for name, reward in DEFENCES.items():
        clean = 0.0
        for share in SHARES:
            rounds = [
                measured(
                    plan_of(options, seed, **reward),
                    flipped(votes, share, seed),
                    f"{share:.0%} flipped, defences {name}",
                )
                for seed in range(17, 17 + options.seeds)
            ]
            accuracy = mean_of(rounds, "accuracy")
            clean = clean if share else accuracy
            if name == "on":
                lost.append(clean - accuracy)
            figures = f"{mean_of(rounds, 'ece_before'):6.3f} {mean_of(rounds, 'seconds'):8.0f}"
            print(
                f"{share:8.0%} {name:>9} {accuracy:9.3f} {clean - accuracy:7.3f} {figures}",
                flush=True,
            )
    return lost


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
