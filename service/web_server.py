"""uvicorn with an end in which answers may end, too.

uvicorn alone closes its doors first and waits for open streams: nobody could ask it whether
it is ready, and the application would hear of its end only after the last stream.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType

import structlog
import uvicorn

SLOW_READERS_S = 5
"""How long clients may take to read the last of their streams."""
REST_S = 30.0
"""How long all the rest of a stop may take, before the process ends as it is."""

log = structlog.get_logger(__name__)


class DrainingServer(uvicorn.Server):
    """At the first signal drains while it still answers, then stops; at the second it ends."""

    def __init__(
        self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]], drain_s: float
    ) -> None:
        """`drain` is awaited before the doors close, and takes about `drain_s` seconds at most."""
        super().__init__(config)
        self._drain, self._limit_s = drain, drain_s + REST_S
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Take a signal, in the main thread, wherever that is."""
        if self._draining is not None:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        else:
            loop = asyncio.get_running_loop()
            self._draining = loop.create_task(self._drain_and_exit())
            # The loop may be asleep, and a signal's handler alone does not wake it.
            loop.call_soon_threadsafe(lambda: None)

    async def _drain_and_exit(self) -> None:
        log.info("server_stops", next=f"ends within {self._limit_s:.0f} s; again: at once")
        last_resort = threading.Timer(self._limit_s, self._end_as_it_is)
        last_resort.daemon = True
        last_resort.start()
        try:
            await self._drain()
        finally:
            self.should_exit = True

    def _end_as_it_is(self) -> None:
        log.error("stop_took_too_long", seconds=self._limit_s, next="nothing: all rows are whole")
        os._exit(1)
