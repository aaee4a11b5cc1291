"""Start, watch and stop the worker process of one training run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from service import worker

LOG_FILE = "worker.log"


class WorkerProcess:
    """A running worker. Start it in the thread that will wait for it: the kernel kills
    the worker when that thread ends."""

    def __init__(self, process: subprocess.Popen[bytes], run_dir: Path) -> None:
        self._process = process
        self._run_dir = run_dir

    @classmethod
    def start(cls, run_dir: Path, niceness: int, threads: int) -> WorkerProcess:
        """Start `python -m service.worker` in its own process group, output to worker.log."""
        command = [sys.executable, "-P", "-m", "service.worker", str(run_dir.resolve())]
        command += ["--niceness", str(niceness), "--parent", str(os.getpid())]
        with (run_dir / LOG_FILE).open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=quiet_environment(threads),
                process_group=0,
            )
        return cls(process, run_dir)

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, or None if it still works after `timeout_s` seconds."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End the worker and everything it started, now, and wait until they are gone."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def why_it_ended(self, code: int) -> str:
        """What to tell about an exit code other than 0."""
        if code < 0:
            name = signal.Signals(-code).name
            return (
                f"the worker was killed by {name} (out of memory is the usual cause of SIGKILL); "
                f"`heed train resume` goes on from the last finished stage"
            )
        said = worker.read_error(self._run_dir)
        if said is None and code == worker.DISK_FAILED:
            return (
                f"{self._run_dir} cannot be written, so the disk may be full; free some space, "
                "then `heed train resume` goes on from the last finished stage"
            )
        return (
            said or f"the worker ended with exit code {code}; {self._run_dir / LOG_FILE} has more"
        )


SHORT_SPIN = {"GOMP_SPINCOUNT": "10000"}
"""A thread of torch that waits for its siblings spins for some microseconds, then sleeps and
leaves its core to other processes."""


def quiet_environment(threads: int) -> dict[str, str]:
    """The environment of a process that computes beside a server.

    Set here since the libraries read it before the plan's own thread count can reach them.
    """
    return os.environ | {"OMP_NUM_THREADS": str(threads)} | SHORT_SPIN


def family_of(pid: int) -> list[psutil.Process]:
    """A process and all it started, and what these started; empty where the process is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def held_mb(process: psutil.Process) -> float:
    """Memory in MB, of pages shared by n processes an nth; 0 where the process is gone."""
    try:
        full = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0.0
    return float(getattr(full, "pss", full.rss)) / 1e6
