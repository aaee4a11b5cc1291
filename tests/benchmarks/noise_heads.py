"""What flipped votes cost the heads that training begins with."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import fmean

from tests.benchmarks.heads_alone import READINGS, HeadsAlone, read_states
from tests.benchmarks.reward_bench import Votes, plan_of
from tests.benchmarks.seed_interval import seed_interval

Flip = Callable[[Votes, float, int], Votes]


def print_heads(
    options: argparse.Namespace, votes: Votes, shares: Sequence[float], flip: Flip
) -> float:
    """The table over `--draws` draws of flips; the most that is lost on average."""
    plan = plan_of(options, 17).reward_model
    states = read_states(options, (*votes.train, *votes.held_out), plan)
    alone = HeadsAlone(states[next(iter(READINGS))])
    print(f"\nheads alone, {options.draws} draws of flips each")
    print(f"{'flipped':>8} {'accuracy':>9} {'lost':>7} {'95% interval':>17}")
    clean = alone.foretold(votes, plan, 17)[0]
    print(f"{0:8.0%} {clean:9.3f}", flush=True)
    most = 0.0
    for share in shares:
        found = [
            alone.foretold(flip(votes, share, seed), plan, 17)[0] for seed in range(options.draws)
        ]
        lost = seed_interval([clean - each for each in found])
        most = max(most, lost.value)
        between = f"{lost.lower:.3f} to {lost.upper:.3f}"
        print(f"{share:8.0%} {fmean(found):9.3f} {lost.value:7.3f} {between:>17}", flush=True)
    return most
