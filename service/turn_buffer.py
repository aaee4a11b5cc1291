"""The events of one turn in memory, for any number of readers, each at their own pace.

Whoever writes never waits for a reader. A turn has at most a few events a token and its
tokens are bounded, so the buffer needs no limit of its own. One event loop uses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.turn_events import Event, NumberedEvent


class TurnBuffer:
    """What was said of a turn so far."""

    def __init__(self, on_readers: Callable[[int], None]) -> None:
        """`on_readers` hears how many read, whenever one comes or goes."""
        self._events: list[Event] = []
        self._readers = 0
        self._more = asyncio.Event()
        self._on_readers = on_readers
        self.over = False
        """Whether the last event has been added."""

    def add(self, event: Event, *, last: bool = False) -> None:
        """Add the next event and wake the readers; after the last one, nothing is added."""
        if self.over:
            return
        self._events.append(event)
        self.over = last
        # A fresh one: each reader waits on the one it found.
        self._more.set()
        self._more = asyncio.Event()

    def reader(self, after: int = 0) -> TurnReader:
        """A reader of the events numbered above `after`, those to come among them."""
        self._readers += 1
        self._on_readers(self._readers)
        return TurnReader(self, after)

    async def next(self, after: int) -> NumberedEvent | None:
        """The first event above `after`, as soon as there is one; None where none will be."""
        while len(self._events) <= after:
            if self.over:
                return None
            await self._more.wait()
        return NumberedEvent(after + 1, self._events[after])

    def left(self) -> None:
        """One reader has gone."""
        self._readers -= 1
        self._on_readers(self._readers)


class TurnReader:
    """One reader's way through a turn; close it to leave before the end."""

    def __init__(self, buffer: TurnBuffer, after: int) -> None:
        self._buffer, self._after = buffer, max(0, after)
        self._gone = False

    def __aiter__(self) -> TurnReader:
        return self

    async def __anext__(self) -> NumberedEvent:
        found = None if self._gone else await self._buffer.next(self._after)
        if found is None:
            await self.aclose()
            raise StopAsyncIteration
        self._after = found.number
        return found

    async def aclose(self) -> None:
        """Leave; more than once changes nothing."""
        if not self._gone:
            self._gone = True
            self._buffer.left()
