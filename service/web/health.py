"""For whoever watches the server: whether it lives, and whether it answers questions."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import Response, get
from sqlmodel import select

from service.database import session
from service.errors import HeedError
from service.web.parts import GivenParts, Parts
from service.web.problems import RETRY_AFTER_S


class Live(msgspec.Struct):
    """The process runs."""

    status: Literal["live"] = "live"


class Ready(msgspec.Struct):
    """Whether questions are answered; `waits_for` says what is missing."""

    status: Literal["ready", "not ready"]
    version: int | None = None
    waits_for: str | None = None


@get("/health/live", tags=["Health"], sync_to_thread=False)
def live() -> Live:
    """The process runs."""
    return Live()


@get("/health/ready", tags=["Health"], sync_to_thread=True)
def ready(parts: GivenParts) -> Response[Ready]:
    """200 where questions are answered, else 503."""
    waits_for = _missing(parts)
    if waits_for is not None:
        body = Ready("not ready", waits_for=waits_for)
        return Response(body, status_code=503, headers={"Retry-After": str(RETRY_AFTER_S)})
    live_id = parts.serving.live_id
    return Response(Ready("ready", version=parts.serving.number(live_id) if live_id else None))


def _missing(parts: Parts) -> str | None:
    try:
        with session(parts.database) as opened:
            opened.exec(select(1)).one()
    except HeedError as error:
        return str(error)
    return None if parts.serving.ready else parts.serving.waits_for
