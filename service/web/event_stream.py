"""A turn's events as lines of text/event-stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
from litestar.response import Stream

from service.turn_buffer import TurnReader
from service.turn_events import (
    AnswerEnded,
    Event,
    NumberedEvent,
    TokenPiece,
    TurnDone,
    TurnFailed,
    TurnStarted,
)

PING_S = 15.0
"""Seconds of silence after which a comment keeps proxies from closing the stream."""

_NAMES: dict[type[Event], str] = {
    TurnStarted: "turn",
    TokenPiece: "token",
    AnswerEnded: "end",
    TurnDone: "done",
    TurnFailed: "error",
}


def streamed(read: Callable[[], TurnReader]) -> Stream:
    """The response with the events of the reader that `read` gives.

    It is called when the response begins to be sent: a client that left before that must not
    count as one that reads.
    """
    return Stream(
        _lines(read),
        media_type="text/event-stream; charset=utf-8",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _lines(read: Callable[[], TurnReader]) -> AsyncIterator[bytes]:
    events = read()
    pending: asyncio.Task[NumberedEvent | None] | None = None
    try:
        while True:
            pending = pending or asyncio.create_task(_next(events))
            done, _ = await asyncio.wait({pending}, timeout=PING_S)
            if not done:
                yield b": still working\n\n"
                continue
            numbered, pending = pending.result(), None
            if numbered is None:
                return
            yield encode(numbered)
    finally:
        if pending is not None:
            pending.cancel()
        # Tells the answering that this reader left.
        await events.aclose()


def encode(numbered: NumberedEvent) -> bytes:
    """One event as its lines; of tokens only what the page shows."""
    event = numbered.event
    shown = {"side": event.side, "text": event.text} if isinstance(event, TokenPiece) else event
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        numbered.number,
        _NAMES[type(event)].encode(),
        msgspec.json.encode(shown),
    )


async def _next(events: TurnReader) -> NumberedEvent | None:
    return await anext(events, None)
