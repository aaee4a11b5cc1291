"""Journey 1 over HTTP: a question in, server-sent events out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import msgspec
from litestar import post
from litestar.params import JSONBody
from litestar.response import Stream

from service.turn_events import (
    AnswerEnded,
    Event,
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
    events = await parts.answering.ask(
        visitor, data.question, data.conversation_id, compare=compare
    )
    return Stream(
        event_stream(events),
        media_type="text/event-stream; charset=utf-8",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def event_stream(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    """The events in the form of text/event-stream, with a comment now and then in silence."""
    pending: asyncio.Task[Event] | None = None
    try:
        while True:
            pending = pending or asyncio.create_task(_next(events))
            done, _ = await asyncio.wait({pending}, timeout=PING_S)
            if not done:
                yield b": still working\n\n"
                continue
            event, pending = pending.result(), None
            yield encode(event)
            if isinstance(event, TurnDone | TurnFailed):
                return
    finally:
        # Either way the events are closed, which tells the answering that the asker left.
        if pending is not None:
            pending.cancel()
        else:
            await events.aclose()  # type: ignore[attr-defined]


def encode(event: Event) -> bytes:
    """One event as its lines."""
    return b"event: %s\ndata: %s\n\n" % (_NAMES[type(event)].encode(), msgspec.json.encode(event))


async def _next(events: AsyncIterator[Event]) -> Event:
    return await anext(events)
