"""Swaps under load with the service's own pieces in this process: Swapper, Serving, the engine."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rlhf_engine
from rlhf_engine.answer_events import Ended, Event, Failed, Token
from rlhf_engine.records import to_json
from service import policies
from service.database import migrate, open_database, session
from service.serving import Serving
from service.settings import Settings
from service.swap import Swapper
from service.tables import PolicyVersion, Promotion
from tests.benchmarks.serving_goals import Held, note, prompt
from tests.benchmarks.swap_records import Answered, AnswerFile, Outcome, Swap
from tests.versions import register, store_version

VERSIONS = 4
"""More than are kept loaded, so that every swap reads its version from disk."""
KEPT = 2
"""The live version and the one before it stay loaded."""
PAUSE_S = 0.1
"""Between swaps, to see tokens come without one."""
PATIENCE_S = 120.0
QUESTIONS = 64


class Load:
    """Streams that ask without a pause until they are stopped."""

    def __init__(self, serving: Serving, streams: int, file: AnswerFile, outcome: Outcome) -> None:
        self._serving, self._file, self._outcome = serving, file, outcome
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [
            threading.Thread(target=self._stream, args=(at,), daemon=True) for at in range(streams)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _stream(self, at: int) -> None:
        seed = at * 1_000_000
        while not self._stop.is_set():
            seed += 1
            with self._lock:
                self._outcome.asked += 1
            try:
                answer = self._answer(seed)
            except (rlhf_engine.EngineError, queue.Empty) as error:
                with self._lock:
                    self._outcome.dropped.append(repr(error))
            else:
                with self._lock:
                    self._file.add(answer)

    def _answer(self, seed: int) -> Answered:
        """One answer on a lease, as Answering takes it."""
        events: queue.Queue[tuple[float, Event]] = queue.Queue()
        asked, sampling = prompt(seed % QUESTIONS), self._serving.sampling()
        times: list[float] = []
        (lease,) = self._serving.lease_answers(1)
        version = lease.version_id
        try:
            self._serving.submit(
                version, asked, [seed], lambda event: events.put((time.monotonic(), event))
            )
            while True:
                moment, event = events.get(timeout=PATIENCE_S)
                if isinstance(event, Token):
                    times.append(moment)
                elif isinstance(event, Failed):
                    raise event.error
                elif isinstance(event, Ended):
                    made = event.answer
                    break
        finally:
            self._serving.give_back(version)
        tokens = list(made.token_ids)
        reason = made.finish_reason
        shown = to_json(asked), seed, to_json(sampling)
        return Answered(version, *shown, tokens, reason, times)


class InProcess:
    """A service without its web part."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        settings.home.mkdir(parents=True, exist_ok=True)
        self.database = open_database(settings.database)
        migrate(self.database)
        self.serving = Serving(settings)
        self._swapper = Swapper(self.database, settings, self.serving)

    def __enter__(self) -> InProcess:
        self._swapper.start()
        until = time.monotonic() + PATIENCE_S
        while not self.serving.ready:
            if time.monotonic() > until:
                raise TimeoutError(f"not ready: {self.serving.waits_for}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._swapper.stop()
        self.serving.close(0.0)
        self.database.dispose()

    def swap(self, version_id: str, outcome: Outcome) -> None:
        """One swap from its request until the version that nobody needs any more is unloaded."""
        began = time.monotonic()
        with session(self.database) as opened:
            asked = policies.request_promotion(opened, version_id, "benchmark", "under load")
        self._swapper.wake()
        self._wait(lambda: self.serving.live_id == version_id or self._refused(asked.id))
        error = self._refused(asked.id)
        if error or self.serving.live_id != version_id:
            outcome.refused.append(error or f"not carried out within {PATIENCE_S:.0f} s")
        self._wait(lambda: len(self.serving.loaded()) <= KEPT)
        outcome.swaps.append(Swap(began, time.monotonic()))

    def _wait(self, holds: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not holds() and time.monotonic() < until:
            time.sleep(0.005)

    def _refused(self, promotion_id: str) -> str | None:
        with session(self.database) as opened:
            return opened.get_one(Promotion, promotion_id).error


def new_versions(base: Path, settings: Settings, database: Any) -> list[str]:
    """Registered versions to swap between; their ids."""
    adapters = settings.home / "adapters"
    found: list[str] = []
    for seed in range(1, VERSIONS + 1):
        folder = store_version(base, settings.policies, adapters, seed)
        with session(database) as opened:
            row: PolicyVersion = register(opened, folder)
            found.append(row.id)
    return found


def run(settings: Settings, base: Path, swaps: int, streams: int, file: AnswerFile) -> Outcome:
    """So many swaps under a load of so many streams."""
    outcome = Outcome()
    with InProcess(settings) as service:
        versions = new_versions(base, settings, service.database)
        with Load(service.serving, streams, file, outcome):
            time.sleep(1.0)
            for at in range(swaps):
                service.swap(versions[at % VERSIONS], outcome)
                time.sleep(PAUSE_S)
                if at + 1 == max(1, swaps // 10):
                    outcome.early = Held.by(os.getpid())
                if (at + 1) % 50 == 0:
                    note(f"{at + 1} of {swaps} swaps, {outcome.asked} answers asked for")
            outcome.late = Held.by(os.getpid())
    return outcome
