"""The events of one turn in memory, for any number of readers, each at their own pace.

Whoever writes never waits for a reader. A turn has at most a few events a token and its
tokens are bounded, so the buffer needs no limit of its own. One event loop uses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from service.turn_events import Event, NumberedEvent


class TurnBuffer:
    """What was said of a turn so far."""

    def __init__(self, on_readers: Callable[[int], None], before: int = 0) -> None:
        """`on_readers` hears how many read, whenever one comes or goes; the first event added is
        number `before` + 1."""
        self._events: list[Event] = []
        self._before = before
        self._readers = 0
        self._more = asyncio.Event()
        self._on_readers = on_readers
        self.over = False
        """Whether the last event has been added."""

    @classmethod
    def told(cls, events: Sequence[Event], before: int) -> TurnBuffer:
        """Events of a turn that is over, numbered from `before` + 1 on."""
        buffer = cls(lambda _readers: None, before)
        for event in events:
            buffer.add(event)
        buffer.over = True
        return buffer

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
        return TurnReader(self, max(after, self._before))

    def exhausted(self, after: int) -> bool:
        """Whether no event is or will be numbered above `after`."""
        return self.over and after >= self._before + len(self._events)

    async def next(self, after: int) -> NumberedEvent | None:
        """The first event above `after`, as soon as there is one; None where none will be."""
        while len(self._events) <= after - self._before:
            if self.over:
                return None
            await self._more.wait()
        return NumberedEvent(after + 1, self._events[after - self._before])

    def left(self) -> None:
        """One reader has gone."""
        self._readers -= 1
        self._on_readers(self._readers)


class TurnReader:
    """One reader's way through a turn; close it to leave before the end."""

    def __init__(self, buffer: TurnBuffer, after: int) -> None:
        self._buffer, self._after = buffer, after
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
