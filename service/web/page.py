"""The page people see, its files, and what it needs to know at first."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec
from litestar import get
from litestar.config.compression import CompressionConfig
from litestar.middleware import DefineMiddleware
from litestar.middleware.compression import CompressionMiddleware
from litestar.response import File
from litestar.static_files import create_static_files_router

from service.roles import Role, may
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenAsker

STATIC = Path(__file__).with_name("static")

# Only files are compressed: a compressed stream of events would wait for more to compress.
_compressed = DefineMiddleware(CompressionMiddleware, config=CompressionConfig(backend="gzip"))

static_files = create_static_files_router(
    path="/static", directories=[STATIC], include_in_schema=False, middleware=[_compressed]
)

ADDRESSES = (
    "/chat/{conversation_id:str}",
    "/vote",
    "/my-feedback",
    "/review",
    "/feedback",
    "/leaderboard",
    "/runs",
    "/runs/{run_id:str}",
    "/policies",
    "/policies/{version_id:str}",
    "/sources",
    "/sources/{name:str}",
    "/signals",
    "/plugins",
    "/people",
    "/account",
    "/sign-in",
    "/welcome",
)
"""The addresses within the page, as its own table of routes (static/frame/routes.js) names them."""


class Me(msgspec.Struct):
    """Who is asking, and how the service stands. `demonstration` says that visitors are signed in
    by themselves, `method` what one is known by ("password", "provider", "link", "visit", "key");
    `waits_for` is there until the service answers."""

    id: str
    name: str
    role: Role
    demonstration: bool
    method: str
    operator: bool
    version: int | None
    waits_for: str | None


@get("/", include_in_schema=False, sync_to_thread=False)
def page() -> File:
    """The chat."""
    return File(STATIC / "shell.html", media_type="text/html", content_disposition_type="inline")


@get(list(ADDRESSES), include_in_schema=False, sync_to_thread=False)
def shell() -> File:
    """The page at any of its addresses; it shows what the address names."""
    return File(STATIC / "shell.html", media_type="text/html", content_disposition_type="inline")


@get("/api/me", tags=["Account"], security=needs("employee", "read"), sync_to_thread=False)
def me(guest: GivenAsker, parts: GivenParts) -> Me:
    """Who is asking; a new visitor where there is no session and visitors have a role."""
    live_id = parts.serving.live_id
    role = cast("Role", guest.person.role)
    return Me(
        id=guest.person.id,
        name=guest.person.name,
        role=role,
        demonstration=guest.person.kind == "visitor",
        method=guest.method,
        operator=may(role, "operator"),
        version=parts.serving.number(live_id) if live_id else None,
        waits_for=parts.serving.trouble,
    )
