"""`python -m rlhf_engine RUN_DIR`: work through a run folder without the service.

Started by `accelerate launch -m rlhf_engine RUN_DIR`, several processes share the stage ppo,
each on the GPU that `own_gpu.py` gives it.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path

from rlhf_engine.errors import Cancelled, EngineError
from rlhf_engine.own_gpu import see_one_gpu
from rlhf_engine.run_folder import Progress, RunFolder

PLAIN_LINE_EVERY_S = 10.0
"""How often progress prints a line where stderr is no terminal."""


def main() -> int:
    """Exit code 0: the gate passed; 4: it refused; 75: cancelled; 1: failed."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_engine",
        description="Train from a run folder that holds plan.json and a frozen snapshot/; "
        "a run that was stopped goes on from its last finished stage.",
    )
    parser.add_argument("run_dir", type=Path, help="the run folder")
    parser.add_argument("--until", metavar="STAGE", help="end after this stage")
    arguments = parser.parse_args()
    RunFolder(arguments.run_dir).clear_cancel()
    # Read once, when torch loads: threads that wait should soon leave the cores to the server.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        see_one_gpu(os.environ)
        from rlhf_engine.pipeline import train

        with closing(_Shown()) as shown:
            verdict = train(arguments.run_dir, on_progress=shown, until=arguments.until)
    except Cancelled as error:
        sys.stderr.write(f"{error}\n")
        return 75
    except EngineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if verdict is None:
        return 0
    sys.stdout.write(f"{verdict.sentence}\n")
    return 0 if verdict.passed else 4


class _Shown:
    """Progress on stderr: on a terminal one line that changes, else a line now and then."""

    def __init__(self) -> None:
        self._part, self._shown, self._open = "", 0.0, False

    def __call__(self, progress: Progress) -> None:
        part = f"{progress.stage}: {progress.note}"
        left = "" if progress.left_s is None else f", {progress.left_s:.0f} s left"
        line = f"{part} {progress.step}/{progress.total}{left}"
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
            self._open = True
        elif part != self._part or progress.at - self._shown >= PLAIN_LINE_EVERY_S:
            sys.stderr.write(f"{line}\n")
            self._part, self._shown = part, progress.at

    def close(self) -> None:
        """End the line that changes: what follows has one of its own."""
        if self._open:
            sys.stderr.write("\n")


if __name__ == "__main__":
    sys.exit(main())
