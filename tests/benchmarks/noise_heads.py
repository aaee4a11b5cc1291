"""What flipped votes cost the heads that training begins with."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import fmean

from tests.benchmarks.heads_alone import READINGS, HeadsAlone, read_states
from tests.benchmarks.reward_bench import Votes, plan_of, read_sides
from tests.benchmarks.seed_interval import between, seed_interval

Flip = Callable[[Votes, float, int], Votes]


def print_heads(options: argparse.Namespace, shares: Sequence[float], flip: Flip) -> float:
    """The table over `--draws` draws, each with flips and held-out questions of its own; the most
    that is lost on average."""
    plan = plan_of(options, 17).reward_model
    draws = range(options.draws)
    sides = read_sides(options, options.draws)
    alone = HeadsAlone(read_states(options, sides, plan)[next(iter(READINGS))])
    clean = [alone.foretold(sides[seed], plan, seed)[0] for seed in draws]
    print(f"\nheads alone, {options.draws} draws of flips and of held-out questions")
    print(f"{'flipped':>8} {'accuracy':>9} {'lost':>7} {'95% interval':>17}")
    print(f"{0:8.0%} {fmean(clean):9.3f}", flush=True)
    most = 0.0
    for share in shares:
        found = [alone.foretold(flip(sides[seed], share, seed), plan, seed)[0] for seed in draws]
        lost = seed_interval([own - each for own, each in zip(clean, found, strict=True)])
        most = max(most, lost.value)
        print(f"{share:8.0%} {fmean(found):9.3f} {lost.value:7.3f} {between(lost):>17}", flush=True)
    return most
