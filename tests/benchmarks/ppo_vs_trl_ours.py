"""This project's side of ppo_vs_trl: `python -m tests.benchmarks.ppo_vs_trl_ours RUN`.

RUN is a run folder whose stages before PPO are done.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from rlhf_engine.pipeline import train
from rlhf_engine.run_folder import RunFolder
from tests.benchmarks.ppo_vs_trl_measured import Measured, peak_mb

PHASES = ("rollout", "score", "update")


def run(folder: RunFolder) -> Measured:
    """Work through the run's PPO stage, and measure."""
    train(folder.path)
    rows = [row for row in folder.metrics() if "batch" in row]
    phases = {name: sum(row[f"time/{name}"] for row in rows) for name in PHASES}
    size = folder.plan().ppo.rollout_size
    return Measured(
        episodes=size * len(rows),
        batch_s=batch_seconds(rows),
        peak_mb=peak_mb(),
        answer_tokens=sum(row["length/mean"] for row in rows) / len(rows),
        phases=phases,
        figures={
            "ratio": rows[-1]["policy/ratio"],
            "kl": rows[-1]["objective/kl"],
            "steps": sum(row["policy/steps"] for row in rows),
        },
    )


def batch_seconds(rows: list[dict[str, float]]) -> list[float]:
    """Seconds of each batch with its checkpoint: from one batch's line to the next. The first
    batch has no line before it; its checkpoint counts like the mean of the others'."""
    inside = [sum(row[f"time/{name}"] for name in PHASES) for row in rows]
    between = [after["time"] - before["time"] for before, after in itertools.pairwise(rows)]
    around = [whole - part for whole, part in zip(between, inside[1:], strict=True)]
    first = inside[0] + (sum(around) / len(around) if around else 0.0)
    return [first, *between]


def main(argv: list[str]) -> int:
    """Run the folder named, and leave what was measured in it."""
    folder = RunFolder(Path(argv[0]))
    run(folder).write(folder.path.with_suffix(".measured"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
