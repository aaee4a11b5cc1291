"""What every request must show, and what every response carries, before any handler's own rules.

A write is taken only as JSON, and without a key only with the browser's word that it comes
from our own pages, so that another site cannot make a person's browser vote or sign in; a
name of the server that we do not know is refused, so that another site cannot point its own
name at us.
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

KEYS_ONLY = "/v1/"
"""Paths that begin so take no session."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
EVERY_ADDRESS = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - compared with, never bound

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
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
        public = urlsplit(settings.public_url or "").hostname or settings.host
        named = {name.lower() for name in (settings.host, public, *settings.allowed_hosts)}
        # Bound to every address, with no names given, any name may be the server's own.
        unnamed = not settings.allowed_hosts and settings.public_url is None
        self._hosts = None if everywhere and unnamed else LOOPBACK | named

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Check, then let the request through."""
        headers = Headers.from_scope(scope)
        self._check_host(headers.get("host", ""))
        if scope.get("method") not in ("GET", "HEAD", "OPTIONS"):
            _check_write(headers, scope["path"])
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


def _check_write(headers: Headers, path: str) -> None:
    if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException("send application/json", status_code=415)
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    from_elsewhere = site is not None and site != "same-origin"
    if from_elsewhere or (origin is not None and not _is_own(origin, headers.get("host", ""))):
        raise PermissionDeniedException("another site's page may not write here")
    # No other site can make a browser send a key, and beside one no cookie is looked at.
    by_key = headers.get("authorization") is not None or path.startswith(KEYS_ONLY)
    if site is None and origin is None and not by_key:
        raise PermissionDeniedException(
            "a write without a key must come from the page; programs send their key: "
            "Authorization: Bearer YOUR_KEY"
        )


def _is_own(origin: str, host: str) -> bool:
    """Whether a page of this origin was served under this host, whose port may be left out."""
    try:
        ours, theirs = urlsplit(f"//{host}"), urlsplit(origin)
        usual = {"https": 443, "http": 80}.get(theirs.scheme)
        same_port = theirs.port == ours.port or {theirs.port, ours.port} <= {None, usual}
    except ValueError:
        return False
    return bool(theirs.hostname) and theirs.hostname == ours.hostname and same_port


async def add_headers(message: Message, scope: Scope) -> None:
    """Put the security headers, and the cookies that a handler sent, on a response."""
    if message["type"] != "http.response.start":
        return
    headers = MutableScopeHeaders.from_message(message)
    for name, value in HEADERS.items():
        headers[name] = value
    headers.setdefault("cache-control", "no-cache" if _is_page(scope) else "no-store")
    cookies: Any = scope.get("state", {}).get("heed_cookies") or {}
    for cookie in cookies.values():
        headers.add("set-cookie", cookie)


def _is_page(scope: Scope) -> bool:
    return scope["path"] == "/" or scope["path"].startswith("/static/")
