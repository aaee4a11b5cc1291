"""`python -m tests.benchmarks.overoptimisation`: hidden gold against KL, with and without defences.

A tiny policy is tuned far beyond what is sensible, against a proxy that learnt from noisy votes of
a hidden gold preference (overoptimisation_world.py). Each arm is tuned from the same
policies, golds and votes, one a seed (overoptimisation_arms.py). The goal: with all defences at
the plan's defaults, gold ends at most 2% of its gain under its peak.

Prints a table and draws it (`--picture FILE`); ends with 1 where the goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
from matplotlib.figure import Figure

from rlhf_engine.generation import limited_threads
from tests.benchmarks.overoptimisation_arms import ARMS, DEFENDED, Arm, Curve, Extent, tune
from tests.benchmarks.seed_interval import seed_interval

MOST_FALL = 0.02
COLOURS = ("#c0392b", "#e08e45", "#b7950b", "#7d5ba6", "#d16ba5", "#2e86ab", "#1e8449")


def measure(folder: Path, seeds: int, extent: Extent, arms: Sequence[Arm] = ARMS) -> list[Curve]:
    """Every arm from every seed."""
    curves = []
    for seed in range(seeds):
        for number, arm in enumerate(arms):
            curves.append(tune(folder / f"{seed}-{number}", arm, seed, extent))
            last = curves[-1].points[-1]
            note = f"seed {seed}, {arm.name}: KL {last.kl:.1f}, gold {last.gold:.2f}"
            print(note, file=sys.stderr, flush=True)
    return curves


def of_arm(curves: Sequence[Curve], name: str) -> list[Curve]:
    """The arm's curves, one a seed."""
    return [curve for curve in curves if curve.arm == name]


def shown(curves: Sequence[Curve]) -> list[Arm]:
    """The arms that were measured."""
    return [arm for arm in ARMS if of_arm(curves, arm.name)]


def print_curves(curves: Sequence[Curve]) -> None:
    """KL, proxy and gold on the way, means over the seeds; a seed that stopped early stays
    where it stopped."""
    print(f"{'':25} {'batch':>5} {'KL':>6} {'proxy':>6} {'gold':>6}")
    for arm in shown(curves):
        own = of_arm(curves, arm.name)
        for batch in sorted({point.batch for curve in own for point in curve.points}):
            found = [[p for p in curve.points if p.batch <= batch][-1] for curve in own]
            kl, proxy, gold = (
                fmean(getattr(each, name) for each in found) for name in ("kl", "proxy", "gold")
            )
            print(f"{arm.name:25} {batch:5} {kl:6.1f} {proxy:6.2f} {gold:6.2f}")


def print_verdict(curves: Sequence[Curve]) -> bool:
    """Where each arm's gold peaks and ends; whether the goal is met."""
    print(f"\n{'gold':25} {'start':>6} {'peak':>6} {'end':>6} {'fall':>7} {'end KL':>6} stopped")
    for arm in shown(curves):
        own = of_arm(curves, arm.name)
        start, end = (fmean(curve.points[at].gold for curve in own) for at in (0, -1))
        peak, kl = fmean(curve.peak for curve in own), fmean(curve.points[-1].kl for curve in own)
        stopped = sum(curve.stopped for curve in own)
        fall = (peak - end) / max(peak - start, 1e-9)
        print(
            f"{arm.name:25} {start:6.2f} {peak:6.2f} {end:6.2f} {fall:7.1%} {kl:6.1f} "
            f"{stopped} of {len(own)}"
        )
    defended = of_arm(curves, DEFENDED)
    rise = seed_interval([curve.points[-1].gold - curve.points[0].gold for curve in defended])
    peak, end = (
        fmean(curve.peak for curve in defended),
        fmean(curve.points[-1].gold for curve in defended),
    )
    fall = (peak - end) / max(fmean(curve.gain for curve in defended), 1e-9)
    print(
        f"\nwith {DEFENDED}, gold rises by {rise.value:.2f} (95% interval {rise.lower:.2f} to "
        f"{rise.upper:.2f}) and ends {fall:.1%} of its gain under its peak (goal {MOST_FALL:.0%})"
    )
    return rise.value > 0 and fall <= MOST_FALL


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Proxy and gold against KL, a line a seed."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        for at, (key, title) in enumerate((("proxy", "Proxy score"), ("gold", "Hidden gold"))):
            axes = figure.add_subplot(1, 2, at + 1)
            for arm, colour in zip(ARMS, COLOURS, strict=True):
                for number, curve in enumerate(of_arm(curves, arm.name)):
                    points = sorted(curve.points, key=lambda point: point.batch)
                    axes.plot(
                        [point.kl for point in points],
                        [getattr(point, key) for point in points],
                        color=colour,
                        linewidth=2.2 if arm.name == DEFENDED else 1.1,
                        label=arm.name if number == 0 else None,
                    )
            axes.set_title(title, loc="left")
            axes.set_xlabel("KL to the SFT policy (nats an answer)")
            axes.grid(visible=True, alpha=0.25)
        axes.legend(frameon=False)
        figure.savefig(path, format="png", dpi=120)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.overoptimisation", description="Gold against KL"
    )
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--batches", type=int, default=Extent().batches)
    parser.add_argument("--every", type=int, default=Extent().every, help="batches between looks")
    parser.add_argument("--answers", type=int, default=Extent().answers, help="looked at a prompt")
    parser.add_argument("--votes", type=int, default=Extent().votes, help="the proxy learns from")
    parser.add_argument("--schedule", choices=("linear", "constant"), default="constant")
    parser.add_argument("--defended", action="store_true", help="only the arm with all defences")
    parser.add_argument("--picture", type=Path, default=Path("overoptimisation.png"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it, print the table, draw it, and say whether the goal is met."""
    arguments = _arguments(argv)
    with tempfile.TemporaryDirectory() as folder, limited_threads(1):
        extent = Extent(
            arguments.batches,
            arguments.every,
            arguments.answers,
            arguments.votes,
            arguments.schedule,
        )
        arms = ARMS if not arguments.defended else [arm for arm in ARMS if arm.name == DEFENDED]
        curves = measure(Path(folder), arguments.seeds, extent, arms)
    print_curves(curves)
    met = print_verdict(curves)
    draw(curves, arguments.picture)
    print(f"drawn in {arguments.picture}")
    print("the goal is met" if met else "THE GOAL IS MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
