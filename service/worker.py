"""The training worker: one process that shares only a run folder with the service.

`python -m service.worker RUN_DIR` reads the plan and the reward signals, trains, and
ends with exit code 0 (the gate has spoken), 75 (asked to stop), 74 (the disk failed or
is full, so that even error.json may be missing) or 1 (error.json in the run folder
says why). It knows no database. Killed at any moment, it leaves a
folder that the next worker goes on from.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import structlog

import rlhf_engine
from rlhf_engine.files import write_json
from rlhf_engine.own_gpu import see_one_gpu
from service.errors import HeedError
from service.logs import configure_logging
from service.run_signals import RunSignals

DONE, FAILED, DISK_FAILED, CANCELLED = 0, 1, 74, 75

ERROR_FILE = "error.json"

_PR_SET_PDEATHSIG = 1

log = structlog.get_logger(__name__)


def read_error(run_dir: Path) -> str | None:
    """What the last worker said when it failed, or None."""
    try:
        data = json.loads((run_dir / ERROR_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(data["error"])


def work(run_dir: Path) -> int:
    """Train the run in `run_dir` to its end and return the exit code."""
    (run_dir / ERROR_FILE).unlink(missing_ok=True)
    try:
        # Before the engine is loaded, which takes a while: a wrong signal is told at once.
        with closing(RunSignals(run_dir)) as given:
            rlhf_engine.train(run_dir, given.signals)
    except rlhf_engine.Cancelled:
        log.info("run_cancelled", run=run_dir.name)
        return CANCELLED
    except (rlhf_engine.EngineError, HeedError, OSError) as error:
        log.error("run_failed", run=run_dir.name, error=str(error))  # noqa: TRY400 - text only
        _leave_error(run_dir, str(error))
        return DISK_FAILED if isinstance(error, OSError | rlhf_engine.DiskError) else FAILED
    # The process boundary: whatever it was, it is told.
    except Exception as error:
        log.exception("run_failed", run=run_dir.name)
        _leave_error(run_dir, f"{type(error).__name__}: {error} (worker.log has the details)")
        return FAILED
    _read_waiting_pairs(run_dir)
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Lower this process's priority, tie it to its parent, give it one GPU, and work."""
    parser = argparse.ArgumentParser(prog="python -m service.worker", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="the run folder")
    parser.add_argument("--niceness", type=int, default=0, help="0 to 19; 19 yields most")
    parser.add_argument("--parent", type=int, help="process id; the worker dies with it")
    options = parser.parse_args(arguments)
    configure_logging("text")
    os.nice(options.niceness)
    if options.parent is not None and not die_with(options.parent):
        return CANCELLED
    # Read once, when torch is imported.
    see_one_gpu(os.environ)
    return work(options.run_dir)


def die_with(parent: int) -> bool:
    """Have the kernel kill this process when the thread that started it ends.

    Returns False where `parent` is gone already. Set here and not between fork and
    exec: the parent runs threads, and code between the two may deadlock.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def _read_waiting_pairs(run_dir: Path) -> None:
    """Score the pairs that wait for a vote; where that fails the queue keeps the order it has."""
    try:
        rlhf_engine.score_disagreement(run_dir)
    # The run is done and its policy is worth keeping, whatever becomes of the queue's order.
    except Exception as error:
        log.warning(
            "waiting_pairs_not_read",
            run=run_dir.name,
            error=f"{type(error).__name__}: {error}",
            next="the voting queue keeps its order until the next run",
            exc_info=not isinstance(error, rlhf_engine.EngineError | OSError),
        )


def _leave_error(run_dir: Path, text: str) -> None:
    try:
        write_json(run_dir / ERROR_FILE, {"error": text})
    except OSError:
        log.exception("error_not_written", run=run_dir.name)


if __name__ == "__main__":
    sys.exit(main())
