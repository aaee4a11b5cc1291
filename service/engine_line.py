"""The process of an engine, and the line to it: two threads that say and hear.

What is said and heard is engine_wire.py. Whoever says something never waits until it is taken.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from multiprocessing.connection import Connection

from rlhf_engine.errors import EngineError, GenerationError
from service import engine_wire as wire

ENDS_S = 5.0
"""How long a process may take to end."""

Value = str | int | None


class EngineProcess:
    """The process, started at once: it reads its libraries while the server reads its own."""

    def __init__(self, log_format: str = "text") -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "service.engine_process"]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, str(theirs.fileno()), log_format],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C is for the server, which lets answers end.
                process_group=0,
            )
        self.wire = wire.Wire(Connection(ours.detach()), wire.Told)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def end(self, patience_s: float = 0.0) -> str:
        """Give it `patience_s` seconds to end by itself, else kill it; says how it ended."""
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


class EngineLine:
    """Speaks with one process. All methods are thread-safe."""

    def __init__(
        self,
        process: EngineProcess,
        on_told: Callable[[wire.Told], None],
        on_gone: Callable[[], None],
    ) -> None:
        """`on_told` hears in the receiving thread what answers no call; `on_gone` once, at the
        end, when the process is gone."""
        self.process = process
        self._on_told, self._on_gone = on_told, on_gone
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._calls: dict[int, Future[Value]] = {}
        self._gone = False
        self._numbers = count(1)
        self._outbox: queue.SimpleQueue[wire.Asked | Callable[[], None] | None] = (
            queue.SimpleQueue()
        )
        works = (("in", self._receive), ("out", self._send))
        self._threads = [
            threading.Thread(target=work, name=f"heed-engine-{name}", daemon=True)
            for name, work in works
        ]
        for thread in self._threads:
            thread.start()

    def say(self, said: wire.Asked | Callable[[], None]) -> None:
        """Have a message sent, or something done in its turn by the thread that sends."""
        self._outbox.put(said)

    def call(self, ask: Callable[[int], wire.Call], patience_s: float | None = None) -> Value:
        """Have something done and wait for it; raises the EngineError that was told instead,
        TimeoutError where it takes longer than `patience_s` seconds."""
        outcome: Future[Value] = Future()
        with self._lock:
            if self._gone:
                raise GenerationError("the engine is not running; try again when it has started")
            number = next(self._numbers)
            self._calls[number] = outcome
            self._outbox.put(ask(number))
        return outcome.result(patience_s)

    def hang_up(self) -> None:
        """Let the process end what it does, and end it; returns when all is over."""
        with contextlib.suppress(EngineError, TimeoutError):
            self.call(wire.Stop, ENDS_S)
        self.process.end(ENDS_S)
        self._outbox.put(None)
        for thread in self._threads:
            thread.join()
        self.process.wire.close()

    def _send(self) -> None:
        while (said := self._outbox.get()) is not None:
            if callable(said):
                said()
                continue
            with contextlib.suppress(OSError):  # the receiving thread hears of it, too
                self.process.wire.send(said)

    def _receive(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._take(self.process.wire.receive())
        with self._lock:
            self._gone = True
            calls = list(self._calls.values())
            self._calls.clear()
        self._on_gone()
        for outcome in calls:
            outcome.set_exception(GenerationError("the engine's process ended; try again"))

    def _take(self, told: wire.Told) -> None:
        match told:
            case wire.Answered(call=number, value=value):
                self._calls.pop(number).set_result(value)
            case wire.Refused(call=number, kind=kind, text=text):
                self._calls.pop(number).set_exception(wire.error_of(kind, text))
            case _:
                self._on_told(told)
