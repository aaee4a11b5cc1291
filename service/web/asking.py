"""Journey 1 over HTTP: a question in, server-sent events out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import msgspec
from litestar import post
from litestar.params import JSONBody
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
from service.web.parts import GivenParts
from service.web.sessions import GivenPerson

PING_S = 15.0
"""Seconds of silence after which a comment keeps proxies from closing the stream."""

_NAMES: dict[type[Event], str] = {
    TurnStarted: "turn",
    TokenPiece: "token",
    AnswerEnded: "end",
    TurnDone: "done",
    TurnFailed: "error",
}


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """A question. Without a conversation it begins one. `compare` asks for two answers or for
    one; left out, the service decides."""

    question: str
    conversation_id: str | None = None
    compare: bool | None = None


@post(
    "/api/ask",
    status_code=200,
    tags=["Chat"],
    summary="Ask a question",
    description=(
        "Answers with server-sent events: `turn` (ids, sides, version, passages), `token` "
        "(side, text), `end` (side, candidate_id, text), then `done`, or `error`."
    ),
)
async def ask(visitor: GivenPerson, parts: GivenParts, data: JSONBody[Question]) -> Stream:
    """Begin a turn and stream its events."""
    share = parts.settings.answers.compare_share
    compare = random.SystemRandom().random() < share if data.compare is None else data.compare
    asked = await parts.answering.ask(visitor, data.question, data.conversation_id, compare=compare)
    return Stream(
        event_stream(asked.events()),
        media_type="text/event-stream; charset=utf-8",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def event_stream(events: TurnReader) -> AsyncIterator[bytes]:
    """The events in the form of text/event-stream, with a comment now and then in silence."""
    pending: asyncio.Task[NumberedEvent] | None = None
    try:
        while True:
            pending = pending or asyncio.create_task(_next(events))
            done, _ = await asyncio.wait({pending}, timeout=PING_S)
            if not done:
                yield b": still working\n\n"
                continue
            numbered, pending = pending.result(), None
            yield encode(numbered)
            if isinstance(numbered.event, TurnDone | TurnFailed):
                return
    finally:
        if pending is not None:
            pending.cancel()
        # Tells the answering that this reader left.
        await events.aclose()


def encode(numbered: NumberedEvent) -> bytes:
    """One event as its lines; of tokens only what the page shows."""
    event = numbered.event
    shown = {"side": event.side, "text": event.text} if isinstance(event, TokenPiece) else event
    name = _NAMES[type(event)].encode()
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        numbered.number,
        name,
        msgspec.json.encode(shown),
    )


async def _next(events: TurnReader) -> NumberedEvent:
    return await anext(events)
