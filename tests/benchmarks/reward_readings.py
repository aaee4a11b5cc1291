"""Where an answer is best read: after how many of the base policy's layers, and whether at the end
of its turn or as the mean over its tokens."""

from __future__ import annotations

import argparse
from dataclasses import replace

from rlhf_engine.statistics import share_interval
from tests.benchmarks.heads_alone import HeadsAlone, read_states
from tests.benchmarks.reward_bench import Votes, plan_of

DEPTHS = (0.33, 0.5, 0.67, 0.83, 1.0)


def print_readings(options: argparse.Namespace, votes: Votes) -> None:
    """The share of the votes that heads over the untouched states foretell, by depth and reading:
    of the votes to learn from by cross-validation over questions, and of those held out."""
    plan = plan_of(options, 17).reward_model
    print(
        f"{'heads alone':20} {'depth':>5} {'learnt from':>11} {'held out':>9} {'95% interval':>15}"
    )
    for depth in DEPTHS:
        reward = replace(plan, depth=depth)
        found = read_states(options, (*votes.train, *votes.held_out), reward)
        for name, states in found.items():
            right, crossed = HeadsAlone(states).foretold(votes, reward, 17)
            share = share_interval(round(right * len(votes.held_out)), len(votes.held_out))
            between = f"{share.lower:.3f} to {share.upper:.3f}"
            figures = f"{crossed:11.3f} {right:9.3f} {between:>15}"
            print(f"{name:20} {depth:5.2f} {figures}", flush=True)
