"""Where an answer is best read: after how many of the base policy's layers, and whether at the end
of its turn or as the mean over its tokens."""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import fmean

from tests.benchmarks.heads_alone import HeadsAlone, read_states
from tests.benchmarks.reward_bench import foretold, plan_of, read_sides
from tests.benchmarks.seed_interval import between

DEPTHS = (0.33, 0.5, 0.67, 0.83, 1.0)


def print_readings(options: argparse.Namespace) -> None:
    """The share of the votes that heads over the untouched states foretell, by depth and reading:
    of the votes to learn from by cross-validation over questions, and of those held out. With
    several `--seeds` each holds out other questions, and all are means."""
    plan = plan_of(options, 17).reward_model
    sides = read_sides(options, options.seeds)
    print(
        f"{'heads alone':20} {'depth':>5} {'learnt from':>11} {'held out':>9} {'95% interval':>15}"
    )
    for depth in options.depth:
        reward = replace(plan, depth=depth)
        for name, states in read_states(options, sides, reward).items():
            heads = HeadsAlone(states)
            shares = [heads.foretold(side, reward, seed) for seed, side in enumerate(sides)]
            right = foretold([held_out for held_out, _ in shares], sides)
            crossed = fmean(own for _, own in shares)
            figures = f"{crossed:11.3f} {right.value:9.3f} {between(right):>15}"
            print(f"{name:20} {depth:5.2f} {figures}", flush=True)
