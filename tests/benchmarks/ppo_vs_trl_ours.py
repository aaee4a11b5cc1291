"""This project's side of ppo_vs_trl: `python -m tests.benchmarks.ppo_vs_trl_ours RUN`.

RUN is a run folder whose stages before PPO are done.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rlhf_engine.pipeline import train
from rlhf_engine.rollout import Rollouts
from rlhf_engine.run_folder import Progress, RunFolder
from tests.benchmarks.ppo_vs_trl_measured import Clock, Measured, peak_mb

PHASES = ("rollout", "score", "update")


def run(folder: RunFolder) -> Measured:
    """Work through the run's PPO stage, and measure from its first rollout to its last
    checkpoint."""
    clock = Clock()
    _start_at_first_rollout(clock)

    def stop_at_last_checkpoint(progress: Progress) -> None:
        if progress.stage == "ppo" and progress.step == progress.total > 1:
            clock.stop()

    train(folder.path, on_progress=stop_at_last_checkpoint)
    seconds, cpu_s = clock.seconds()
    rows = [row for row in folder.metrics() if "batch" in row]
    return Measured(
        episodes=folder.plan().ppo.rollout_size * len(rows),
        seconds=seconds,
        cpu_s=cpu_s,
        peak_mb=peak_mb(),
        answer_tokens=sum(row["length/mean"] for row in rows) / len(rows),
        phases={name: sum(row[f"time/{name}"] for row in rows) for name in PHASES},
        figures={
            "ratio": rows[-1]["policy/ratio"],
            "kl": rows[-1]["objective/kl"],
            "steps": sum(row["policy/steps"] for row in rows),
        },
    )


def _start_at_first_rollout(clock: Clock) -> None:
    draw = Rollouts.draw

    def watched(rollouts: Rollouts, *arguments: Any) -> Any:
        clock.start()
        return draw(rollouts, *arguments)

    Rollouts.draw = watched  # type: ignore[method-assign]


def main(argv: list[str]) -> int:
    """Run the folder named, and leave what was measured beside it."""
    folder = RunFolder(Path(argv[0]))
    run(folder).write(folder.path.with_suffix(".measured"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
