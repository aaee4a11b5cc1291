"""The most memory that this process and all it started ever held at once, and who held it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

import psutil

from service.worker_process import family_of, held_mb

EVERY_S = 1.0

OWN, OTHER = "demo", "other"
LABELS = {
    "service.demo.server": "server",
    "service.worker": "worker",
    "service.demo.engine_job": "job",
    "rlhf_engine.base_check": "base policy",
    "rlhf_engine.convert_gguf": "base policy",
}
"""What a process is called, by the module it runs."""


@dataclass(frozen=True, slots=True)
class Peak:
    """Memory at one moment: MB by process label, and what was being done (empty: unknown)."""

    held_mb: dict[str, float] = field(default_factory=dict)
    during: str = ""

    @property
    def total_mb(self) -> float:
        """What all processes held together."""
        return sum(self.held_mb.values())


class PeakMemory:
    """Samples in a thread until stopped; shared pages are counted once.

    `known` is the peak of earlier goes, which a lower one does not replace.
    """

    def __init__(self, known: Peak | None = None) -> None:
        self.peak = known or Peak()
        self.during = ""
        """What is being done; whoever does it says so."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peak-memory", daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def stop(self) -> Peak:
        """Stop and return the peak."""
        self._stopped.set()
        self._thread.join()
        return self.peak

    def _run(self) -> None:
        while True:
            now = Peak(_held_now(), self.during)
            if now.total_mb > self.peak.total_mb:
                self.peak = now
            if self._stopped.wait(EVERY_S):
                return


def _held_now() -> dict[str, float]:
    held: dict[str, float] = {}
    for process in family_of(os.getpid()):
        label = _label(process)
        held[label] = held.get(label, 0.0) + held_mb(process)
    return {label: mb for label, mb in held.items() if mb}


def _label(process: psutil.Process) -> str:
    if process.pid == os.getpid():
        return OWN
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return OTHER
    return next((LABELS[word] for word in words if word in LABELS), OTHER)
