"""The check before a question's own rules: is there room for it at all?

A guard runs before the body is read and before anybody is looked up, so that a refusal
costs neither the database nor a thread.
"""

from __future__ import annotations

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from service.web.parts import Parts
from service.web.sessions import bearer, session_token

AnyConnection = ASGIConnection[Any, Any, Any, Any]


async def require_room(connection: AnyConnection, _handler: BaseRouteHandler) -> None:
    """Refuse the question where the service can take none now, or none of this asker.

    A coroutine, since Litestar runs plain functions in a thread, and all may be busy.
    """
    parts: Parts = connection.app.state.parts
    parts.answering.check_room(parts.askers.find(token_of(connection)))


def token_of(connection: AnyConnection) -> str | None:
    """The asker's bearer token or session token, not checked."""
    key = bearer(connection)
    if key is not None:
        return key
    parts: Parts = connection.app.state.parts
    return session_token(connection, parts.settings)
