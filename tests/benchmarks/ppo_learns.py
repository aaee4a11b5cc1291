"""`python -m tests.benchmarks.ppo_learns`: does PPO learn what it is rewarded for?

`--size tiny`: a known reward on a tiny policy, by PPO and by RLOO; the goal is 90% of the
reachable reward (ppo_learns_tiny.py).
`--size smollm2`: a simulated preference on the demonstration company's questions, learnt by a
reward model from simulated votes; the goal is that on held-out questions PPO beats its SFT
start, and best-of-4 plus SFT from as many generated tokens (ppo_learns_preference.py).

Ends with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rlhf_engine.generation import limited_threads
from rlhf_engine.statistics import Interval
from tests.benchmarks.ppo_learns_tiny import PPO, Outcome, climb_known_reward
from tests.benchmarks.seed_interval import seed_interval

GOAL = 0.9
ALGORITHMS = ("ppo", "rloo")


def climb(folder: Path, seeds: int, batches: int) -> dict[str, list[Outcome]]:
    """Both algorithms from each seed."""
    found: dict[str, list[Outcome]] = {name: [] for name in ALGORITHMS}
    for seed in range(seeds):
        for name in ALGORITHMS:
            outcome = climb_known_reward(folder / f"{name}-{seed}", name, seed, batches)
            found[name].append(outcome)
            print(f"{name}, seed {seed}: {outcome.end:.3f}", file=sys.stderr, flush=True)
    return found


def print_climb(found: dict[str, list[Outcome]]) -> bool:
    """The rewards of every seed, and the share of the reachable with its interval; whether the
    goal is met by each algorithm's mean."""
    print(f"{'':6} {'seed':>4} {'start':>7} {'tuned':>7} {'reachable':>9} {'share':>7}")
    shares: dict[str, Interval] = {}
    for name, outcomes in found.items():
        for each in outcomes:
            print(
                f"{name:6} {each.seed:4} {each.start:7.3f} {each.end:7.3f} "
                f"{each.reachable:9.3f} {each.share:7.1%}"
            )
        shares[name] = seed_interval([each.share for each in outcomes])
    print(f"\nshare of the reachable reward, mean over the seeds (goal {GOAL:.0%})")
    for name, share in shares.items():
        print(f"{name:6} {share.value:.1%} (95% interval {share.lower:.1%} to {share.upper:.1%})")
    return all(share.value >= GOAL for share in shares.values())


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ppo_learns", description="Does PPO learn?"
    )
    parser.add_argument("--size", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--seeds", type=int, default=3, help="runs from different seeds")
    parser.add_argument(
        "--batches", type=int, default=PPO.rollout_batches, help="rollout batches, tiny"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it, print the table, and say whether the goal is met."""
    arguments = _arguments(argv)
    with tempfile.TemporaryDirectory() as folder, limited_threads(1):
        met = print_climb(climb(Path(folder), arguments.seeds, arguments.batches))
    print("the goal is met" if met else "THE GOAL IS MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
