"""What every request must show, and what every response carries, before any handler's own rules.

A write is taken only as JSON and only from our own pages, so that another site cannot
make a visitor's browser vote; a name of the server that we do not know is refused, so
that another site cannot point its own name at us.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from litestar.datastructures import Headers, MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, PermissionDeniedException
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from service.settings import Settings

LONGEST_BODY = 64 * 1024
"""Bytes of the longest request body."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
EVERY_ADDRESS = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - compared with, never bound

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class RequestRules(ASGIMiddleware):
    """Refuses requests under a foreign name, and writes that another site could have made."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, settings: Settings) -> None:
        everywhere = settings.host in EVERY_ADDRESS
        named = {name.lower() for name in (settings.host, *settings.allowed_hosts)}
        # Bound to every address, with no names given, any name may be the server's own.
        self._hosts = None if everywhere and not settings.allowed_hosts else LOOPBACK | named

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Check, then let the request through."""
        headers = Headers.from_scope(scope)
        self._check_host(headers.get("host", ""))
        if scope.get("method") not in ("GET", "HEAD", "OPTIONS"):
            _check_write(headers)
        await next_app(scope, receive, send)

    def _check_host(self, host: str) -> None:
        name = (urlsplit(f"//{host}").hostname or "") if _is_host(host) else ""
        if self._hosts is not None and name not in self._hosts:
            raise HTTPException(
                f"this server does not answer to the name {host!r}; use the one in its settings",
                status_code=421,
            )


def _is_host(host: str) -> bool:
    try:
        urlsplit(f"//{host}")
    except ValueError:
        return False
    return True


def _check_write(headers: Headers) -> None:
    if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException("send application/json", status_code=415)
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise PermissionDeniedException("another site's page may not write here")
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        raise PermissionDeniedException("another site's page may not write here")


async def add_headers(message: Message, scope: Scope) -> None:
    """Put the security headers, and a fresh session's cookie, on a response."""
    if message["type"] != "http.response.start":
        return
    headers = MutableScopeHeaders.from_message(message)
    for name, value in HEADERS.items():
        headers[name] = value
    headers.setdefault("cache-control", "no-cache" if _is_page(scope) else "no-store")
    cookie: Any = scope.get("state", {}).get("heed_cookie")
    if cookie:
        headers.add("set-cookie", cookie)


def _is_page(scope: Scope) -> bool:
    return scope["path"] == "/" or scope["path"].startswith("/static/")
