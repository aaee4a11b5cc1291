"""`python -m tests.benchmarks.ppo_learns`: does PPO learn what it is rewarded for?

`--size tiny`: a known reward on a tiny policy, by PPO and by RLOO; the goal is 90% of the
reachable reward (ppo_learns_tiny.py).
`--size smollm2`: a simulated preference on the demonstration company's questions, learnt by a
reward model from simulated votes; the goal is that on held-out questions PPO beats its SFT
start, and best-of-4 plus SFT from as many generated tokens, by a win rate controlled for length
(ppo_learns_preference.py). `--small` ends within a quarter of an hour on two slow cores. With
`--folder` all is kept and gone on from, and several calls with `--first-seed` can share the work:
the last one prints the table of all seeds.

Ends with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rlhf_engine import fetch_base
from rlhf_engine.generation import limited_threads
from rlhf_engine.statistics import Interval
from tests.benchmarks.ppo_learns_control import win_rate
from tests.benchmarks.ppo_learns_preference import SCALES, Arms, Preference
from tests.benchmarks.ppo_learns_tiny import PPO, Outcome, climb_known_reward
from tests.benchmarks.ppo_vs_trl_setup import BASE_CACHE, SMOLLM2
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


def prefer(folder: Path, arguments: argparse.Namespace) -> list[Arms]:
    """The simulated preference, from each seed."""
    base = fetch_base(arguments.base or SMOLLM2, BASE_CACHE)
    scale = SCALES[arguments.scale]
    world = Preference(folder, base, scale, arguments.dtype, arguments.threads)
    figures = world.learn_rewards()
    known = {
        key: figures[key] for key in ("pairs", "accuracy", "accuracy_interval") if key in figures
    }
    print(f"reward model: {known}")
    arms = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        arms.append(world.tune(seed))
        print(f"seed {seed} is done", file=sys.stderr, flush=True)
    return arms


def print_preference(arms: Sequence[Arms]) -> bool:
    """Win rates of PPO and best-of-n; whether PPO's controlled ones lie above one half with
    their whole intervals."""
    print(f"{'':12} {'seed':>4} {'tokens':>8} {'KL':>6} {'score':>6} {'agrees':>6}")
    for each in arms:
        for name, scores in each.scores.items():
            kl = f"{each.figures[name]['objective/kl_last']:.2f}" if name == "ppo" else ""
            tokens = each.tokens.get(name, "")
            figures = f"{fmean(scores):6.2f} {each.agreement(name):6.2f}"
            print(f"{name:12} {each.seed:4} {tokens:>8} {kl:>6} {figures}")
    print("score: by the reward model; agrees: its correlation with the hidden preference")
    print(f"\n{'hidden preference':22} {'win rate':>22} {'at equal length':>22} longer by words")
    met = []
    for one, other in (("ppo", "sft"), ("best_of_n", "sft"), ("ppo", "best_of_n")):
        rate = win_rate([match for each in arms for match in each.matches(one, other)])
        plain, controlled = _percent(rate.plain), _percent(rate.controlled)
        print(f"{one + ' to ' + other:22} {plain:>22} {controlled:>22} {rate.longer:+8.1f}")
        met.append(one != "ppo" or rate.controlled.lower > 0.5)
    return all(met)


def _percent(rate: Interval) -> str:
    return f"{rate.value:.1%} ({rate.lower:.1%} to {rate.upper:.1%})"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ppo_learns", description="Does PPO learn?"
    )
    parser.add_argument("--size", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--seeds", type=int, default=3, help="runs from different seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="smollm2: the first of them")
    parser.add_argument("--folder", type=Path, help="smollm2: keep all here, and go on from it")
    parser.add_argument(
        "--batches", type=int, default=PPO.rollout_batches, help="rollout batches, tiny"
    )
    parser.add_argument(
        "--small",
        dest="scale",
        action="store_const",
        const="small",
        default="full",
        help="smollm2: less of everything",
    )
    parser.add_argument("--scale", choices=tuple(SCALES), help="smollm2: how much is done")
    parser.add_argument("--base", help="folder of another base policy than SmolLM2")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it, print the table, and say whether the goal is met."""
    arguments = _arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.size == "smollm2":
            met = print_preference(prefer(arguments.folder or Path(folder), arguments))
        else:
            with limited_threads(1):
                met = print_climb(climb(Path(folder), arguments.seeds, arguments.batches))
    print("the goal is met" if met else "THE GOAL IS MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
