"""Where an answer is best read: after how many of the base policy's layers, and whether at the end
of its turn or as the mean over its tokens."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from rlhf_engine.plan import RewardPlan
from rlhf_engine.statistics import Interval, share_interval
from tests.benchmarks.heads_alone import HeadsAlone, read_states
from tests.benchmarks.reward_bench import Votes, plan_of, read_votes
from tests.benchmarks.seed_interval import seed_interval

DEPTHS = (0.33, 0.5, 0.67, 0.83, 1.0)


def print_readings(options: argparse.Namespace) -> None:
    """The share of the votes that heads over the untouched states foretell, by depth and reading:
    of the votes to learn from by cross-validation over questions, and of those held out. With
    several `--seeds` each holds out other questions, and all are means."""
    plan = plan_of(options, 17).reward_model
    sides = [read_votes(options, split=seed) for seed in range(options.seeds)]
    print(
        f"{'heads alone':20} {'depth':>5} {'learnt from':>11} {'held out':>9} {'95% interval':>15}"
    )
    for depth in options.depth:
        reward = replace(plan, depth=depth)
        for name, states in read_states(options, sides, reward).items():
            crossed, right = _foretold(HeadsAlone(states), sides, reward)
            between = f"{right.lower:.3f} to {right.upper:.3f}"
            figures = f"{crossed:11.3f} {right.value:9.3f} {between:>15}"
            print(f"{name:20} {depth:5.2f} {figures}", flush=True)


def _foretold(
    heads: HeadsAlone, sides: Sequence[Votes], reward: RewardPlan
) -> tuple[float, Interval]:
    """Of the votes to learn from, and of those held out with Wilson's interval over the votes, or
    Student's over several sides."""
    found = [heads.foretold(side, reward, seed) for seed, side in enumerate(sides)]
    crossed = fmean(own for _, own in found)
    if len(found) > 1:
        return crossed, seed_interval([right for right, _ in found])
    count = len(sides[0].held_out)
    return crossed, share_interval(round(found[0][0] * count), count)
