"""The most memory that this process and all it started ever held at once."""

from __future__ import annotations

import os
import threading

from service.worker_process import memory_mb

EVERY_S = 1.0


class PeakMemory:
    """Samples in a thread until stopped; shared pages are counted once."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peak-memory", daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def stop(self) -> float:
        """Stop and return the peak in MB."""
        self._stopped.set()
        self._thread.join()
        return self.peak_mb

    def _run(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, memory_mb(os.getpid()))
            if self._stopped.wait(EVERY_S):
                return
