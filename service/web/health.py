"""For whoever watches the server: whether it lives, and whether it answers questions."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from litestar import Response, get
from sqlmodel import select

from service.database import session
from service.engine_watch import lasting_trouble
from service.errors import HeedError
from service.web.parts import GivenParts, Parts
from service.web.problems import RETRY_AFTER_S
from service.web.rights import PUBLIC


class Live(msgspec.Struct):
    """Whether the process does its work; `trouble` says why not."""

    status: Literal["live", "not live"]
    trouble: str | None = None


class Ready(msgspec.Struct):
    """Whether questions are answered; `waits_for` says what is missing."""

    status: Literal["ready", "not ready"]
    version: int | None = None
    waits_for: str | None = None


@get("/health/live", security=PUBLIC, tags=["Health"], sync_to_thread=False)
def live(parts: GivenParts) -> Response[Live]:
    """200 unless only a restart helps, else 503. A server that stops is left to its end."""
    trouble = None if parts.answering.stopping else lasting_trouble(parts.serving.stats())
    if trouble is not None:
        return Response(Live("not live", trouble), status_code=503)
    return Response(Live("live"))


@get("/health/ready", security=PUBLIC, tags=["Health"])
async def ready(parts: GivenParts) -> Response[Ready]:
    """200 where questions are answered, else 503."""
    waits_for = _missing(parts) or await asyncio.to_thread(_missing_database, parts)
    if waits_for is not None:
        body = Ready("not ready", waits_for=waits_for)
        return Response(body, status_code=503, headers={"Retry-After": str(RETRY_AFTER_S)})
    live_id = parts.serving.live_id
    return Response(Ready("ready", version=parts.serving.number(live_id) if live_id else None))


def _missing(parts: Parts) -> str | None:
    if parts.answering.stopping:
        return "the server is stopping"
    return parts.serving.trouble


def _missing_database(parts: Parts) -> str | None:
    try:
        with session(parts.database) as opened:
            opened.exec(select(1)).one()
    except HeedError as error:
        return str(error)
    return None
