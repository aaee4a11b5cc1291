"""The page people see, its files, and what it needs to know at first."""

from __future__ import annotations

from pathlib import Path

import msgspec
from litestar import get
from litestar.config.compression import CompressionConfig
from litestar.middleware import DefineMiddleware
from litestar.middleware.compression import CompressionMiddleware
from litestar.response import File
from litestar.static_files import create_static_files_router

from service.roles import Role, may
from service.web.parts import GivenParts
from service.web.sessions import GivenPerson, role_of

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
    "/people",
    "/account",
    "/sign-in",
    "/welcome",
)
"""The addresses within the page, as its own table of routes (static/frame/routes.js) names them."""


class Me(msgspec.Struct):
    """Who is asking, and how the service stands. `waits_for` is there until it answers."""

    name: str
    role: Role
    demonstration: bool
    operator: bool
    version: int | None
    waits_for: str | None


@get("/", include_in_schema=False, sync_to_thread=False)
def page() -> File:
    """The page."""
    return File(STATIC / "index.html", media_type="text/html", content_disposition_type="inline")


@get(list(ADDRESSES), include_in_schema=False, sync_to_thread=False)
def shell() -> File:
    """The page at any of its addresses; it shows what the address names."""
    return File(STATIC / "shell.html", media_type="text/html", content_disposition_type="inline")


@get("/api/me", tags=["Chat"], sync_to_thread=False)
def me(visitor: GivenPerson, parts: GivenParts) -> Me:
    """Who is asking; begins a session where there is none."""
    live_id = parts.serving.live_id
    role = role_of(visitor, parts.settings)
    return Me(
        name=visitor.name,
        role=role,
        demonstration=parts.settings.visitors != "none",
        operator=may(role, "operator"),
        version=parts.serving.number(live_id) if live_id else None,
        waits_for=None if live_id else parts.serving.waits_for,
    )
