"""The engine in a process of its own: `python -m service.engine_process SOCKET LOG_FORMAT`.

What answers keeps a core busy in Python and in torch; beside it, in one process, whoever asks
would wait for it at every turn. So `heed serve` has it here and speaks with it over a socket
(process_engine.py is the other end). It ends with the server, however that ends.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import rlhf_engine
from rlhf_engine.answer_events import Ended, Event, Failed
from rlhf_engine.errors import EngineError
from service import engine_wire as wire
from service.logs import configure_logging

NICENESS = 2
"""Whoever asks comes a little before: a server that waits for its own engine cannot even refuse.
Little, since a flood of refusals would else leave the engine nothing."""
PULSE_S = 1.0
SOON_S, RETIRES_S = 0.005, 60.0
"""A job's last event is told a moment before it lets go of its versions."""


class EngineSide:
    """Does what the server asks. Jobs begin and end in the receiving thread; whatever takes long
    is done by another, one thing after the other, and tokens are counted by a third."""

    def __init__(self, server: wire.Wire) -> None:
        self._server, self._sending = server, threading.Lock()
        self._engine: Any = None
        self._jobs: dict[int, Any] = {}
        self._work = ThreadPoolExecutor(1, "heed-engine-work")
        # Whoever asks waits for it, and so not behind a version that is being loaded.
        self._counting = ThreadPoolExecutor(1, "heed-engine-counting")

    def serve(self) -> NoReturn:
        """Do what is asked until the server is gone."""
        while True:
            try:
                self._take(self._server.receive())
            except (EOFError, OSError):
                _end()

    def _take(self, message: object) -> None:
        match message:
            case wire.Submit():
                self._submit(message)
            case wire.Cancel(job=number):
                if number in self._jobs:
                    self._jobs[number].cancel()
            case wire.Retire(version=version):
                self._work.submit(self._retire, version)
            case wire.Open() | wire.Load() | wire.Stop():
                self._work.submit(self._answer, message)
            case wire.Count():
                self._counting.submit(self._answer, message)

    def _answer(self, call: wire.Call) -> None:
        try:
            value = self._do(call)
        except Exception as error:  # noqa: BLE001 - told to the server, which waits for it
            self._send(wire.Refused(call.call, *_told(error)))
        else:
            self._send(wire.Answered(call.call, value))
            if isinstance(call, wire.Stop):
                _end()

    def _do(self, call: wire.Call) -> str | int | None:
        match call:
            case wire.Open():
                return self._open(call)
            case wire.Load(path=path):
                # Its id is its folder's name, which loading verifies.
                folder = rlhf_engine.PolicyVersionFolder(Path(path), Path(path).name, {})
                version: str = self._engine.load(folder)
                return version
            case wire.Count(prompt=prompt, max_tokens=most):
                counted: int = self._engine.count_prompt_tokens(prompt, most)
                return counted
            case wire.Stop():
                self._engine.stop()
                return None

    def _open(self, call: wire.Open) -> str:
        engine = rlhf_engine.TorchEngine(
            Path(call.base),
            call.dtype,
            call.threads,
            # The server bounds the queue; here a job waits for a moment at most.
            max_waiting=2 * call.max_rows,
            max_rows=call.max_rows,
        )
        engine.start()
        self._engine = engine
        threading.Thread(target=self._pulse, name="heed-engine-pulse", daemon=True).start()
        dtype: str = engine.stats().dtype
        return dtype

    def _submit(self, asked: wire.Submit) -> None:
        tell = partial(self._tell, asked.job, time.monotonic())
        try:
            job = self._engine.submit(
                asked.versions[0],
                asked.prompt,
                asked.seeds,
                asked.settings,
                tell,
                versions=asked.versions,
                max_prompt_tokens=asked.max_prompt_tokens,
            )
        except EngineError as error:
            self._send(wire.JobFailed(asked.job, *_told(error)))
            return
        self._jobs = {number: each for number, each in self._jobs.items() if not each.over}
        self._jobs[asked.job] = job

    def _tell(self, job: int, heard_at: float, event: Event) -> None:
        match event:
            case Ended():
                self._send(wire.RowEnded(job, event))
            case Failed(error=error):
                self._send(wire.JobFailed(job, *_told(error)))
            case _:
                self._send(wire.Drawn(job, event, time.monotonic() - heard_at))

    def _retire(self, version: str) -> None:
        until = time.monotonic() + RETIRES_S
        while not self._engine.retire(version) and time.monotonic() < until:
            time.sleep(SOON_S)

    def _pulse(self) -> None:
        while True:
            stats = self._engine.stats()
            self._send(wire.Pulse(stats.alive, stats.round_s))
            time.sleep(PULSE_S)

    def _send(self, message: wire.Told) -> None:
        try:
            with self._sending:
                self._server.send(message)
        except OSError:
            _end()


def _told(error: Exception) -> tuple[str, str]:
    known = isinstance(error, EngineError)
    return type(error).__name__, str(error) if known else repr(error)


def _end() -> NoReturn:
    """Leave at once: nobody is left to tell, and nothing here has to be kept."""
    os._exit(0)


def main(arguments: Sequence[str]) -> NoReturn:
    """Serve the server at the other end of this socket."""
    socket, log_format = arguments
    # The server hears these, lets answers end, and hangs up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    gc.disable()
    configure_logging("json" if log_format == "json" else "text")
    server = wire.Wire(Connection(int(socket)), wire.Asked)
    # transformers reads scipy where it finds it, for a loss that nothing here has: a tenth of the
    # start. None says that there is none.
    sys.modules["scipy"] = None  # type: ignore[assignment]
    # Loaded before anything is asked: the server reads its own libraries meanwhile.
    _ = rlhf_engine.TorchEngine
    gc.freeze()
    gc.enable()
    os.nice(NICENESS)
    EngineSide(server).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
