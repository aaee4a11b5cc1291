"""Signing in and out over HTTP: by password, by a one-time link, and at the provider."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import quote

import msgspec
import structlog
from litestar import Request, get, post
from litestar.params import FromQuery, JSONBody
from litestar.response import Redirect

from service import audit, one_time_links, sign_in_company
from service import sign_in as passwords
from service.database import session
from service.errors import HeedError, NotFoundError, NotSignedInError, ProviderError
from service.passwords import SHORTEST
from service.secret_tokens import fresh_token
from service.sign_in_company import Claims, IdentityProvider
from service.web.parts import GivenParts, Parts
from service.web.rights import PUBLIC
from service.web.sessions import (
    begin_session,
    drop_session,
    end_session,
    is_https,
    send_cookie,
    send_session,
)

CALLBACK = "/api/sign-in/provider/callback"
VISIT_COOKIE = "heed_visit"
VISIT_S = 600

AnyRequest = Request[Any, Any, Any]

log = structlog.get_logger(__name__)


class Ways(msgspec.Struct):
    """How one may sign in here. `provider` is what its button says, `first` that the first
    account is still to be made."""

    passwords: bool
    provider: str | None
    visitors: bool
    first: bool


class Credentials(msgspec.Struct, forbid_unknown_fields=True):
    """A sign-in name and a password."""

    name: str
    password: str


class SignedIn(msgspec.Struct):
    """Who one is now."""

    name: str
    role: str


class Token(msgspec.Struct, forbid_unknown_fields=True):
    """The token of a one-time link: what stands after the # of its address."""

    token: str


class Link(msgspec.Struct):
    """What a one-time link is for. `name` is who is invited, or whose password it is."""

    kind: Literal["first", "invitation", "password"]
    role: str | None
    name: str | None
    shortest_password: int


class Welcome(msgspec.Struct, forbid_unknown_fields=True):
    """The use of a one-time link. A link to a new password needs no names."""

    token: str
    password: str
    name: str = ""
    sign_in_name: str = ""


@get("/api/sign-in", security=PUBLIC, tags=["Account"], sync_to_thread=True)
def ways(parts: GivenParts) -> Ways:
    """How one may sign in."""
    settings = parts.settings
    with session(parts.database) as opened:
        first = one_time_links.needs_first_account(opened, settings)
    label = settings.oidc.label if settings.oidc.issuer else None
    return Ways(settings.sign_in.passwords, label, settings.visitors != "none", first)


@post("/api/sign-in", status_code=200, security=PUBLIC, tags=["Account"], sync_to_thread=True)
def sign_in(request: AnyRequest, parts: GivenParts, data: JSONBody[Credentials]) -> SignedIn:
    """Sign in by name and password; 429 with Retry-After after too many tries."""
    _check_passwords_are_used(parts)
    person, token = passwords.sign_in(
        parts.database,
        parts.settings,
        parts.sign_in_limits,
        (data.name, data.password),
        (address_of(request), request.headers.get("user-agent", "")),
    )
    with session(parts.database) as opened:
        end_session(request, opened, parts)
    send_session(request, parts.settings, token, "password")
    return SignedIn(person.name, person.role)


@post("/api/sign-out", status_code=204, security=PUBLIC, tags=["Account"], sync_to_thread=True)
def sign_out(request: AnyRequest, parts: GivenParts) -> None:
    """End the session of this browser."""
    with session(parts.database) as opened:
        end_session(request, opened, parts)
    drop_session(request, parts.settings)


@post("/api/welcome/look", status_code=200, security=PUBLIC, tags=["Account"], sync_to_thread=True)
def look(request: AnyRequest, parts: GivenParts, data: JSONBody[Token]) -> Link:
    """What a one-time link is for; 404 where it does not work (any more)."""
    parts.sign_in_limits.count_address(address_of(request))
    with session(parts.database) as opened:
        link = one_time_links.look(opened, data.token)
        name = one_time_links.name_of(opened, link)
    kind = msgspec.convert(link.kind, Literal["first", "invitation", "password"])
    return Link(kind, link.role, name, SHORTEST)


@post("/api/welcome", status_code=200, security=PUBLIC, tags=["Account"], sync_to_thread=True)
def welcome(request: AnyRequest, parts: GivenParts, data: JSONBody[Welcome]) -> SignedIn:
    """Use a one-time link: make the account or take the new password, and sign in."""
    _check_passwords_are_used(parts)
    parts.sign_in_limits.count_address(address_of(request))
    with session(parts.database) as opened:
        link = one_time_links.look(opened, data.token)
        if link.kind == "password":
            person = one_time_links.new_password(opened, data.token, data.password)
        else:
            given = (data.name, data.sign_in_name, data.password)
            person = one_time_links.make_account(opened, data.token, *given)
        begin_session(request, opened, parts, person, "link")
        audit.record(opened, person, "sign_in.done", method="link")
    return SignedIn(person.name, person.role)


@get("/api/sign-in/provider", security=PUBLIC, tags=["Account"], sync_to_thread=True)
def leave_for_provider(
    request: AnyRequest, parts: GivenParts, next_path: FromQuery[str] = "/"
) -> Redirect:
    """Send the browser to the company's provider; it comes back to the callback."""
    parts.sign_in_limits.count_address(address_of(request))
    try:
        departure = _provider(parts).depart(_callback(request, parts))
    except ProviderError as error:
        return _failed(error, "provider")
    browser_token = fresh_token()
    with session(parts.database) as opened:
        sign_in_company.keep_departure(opened, departure, browser_token, next_path)
    send_cookie(request, _visit_cookie(request, parts), browser_token, VISIT_S)
    return Redirect(departure.url, status_code=303)


@get(CALLBACK, security=PUBLIC, tags=["Account"], sync_to_thread=True)
def arrive_from_provider(
    request: AnyRequest,
    parts: GivenParts,
    code: FromQuery[str] = "",
    error: FromQuery[str] = "",
) -> Redirect:
    """Where the provider sends the browser back to; signs in and goes on to the page."""
    parts.sign_in_limits.count_address(address_of(request))
    provider = _provider(parts)
    cookie = _visit_cookie(request, parts)
    state = request.query_params.get("state", "")
    try:
        with session(parts.database) as opened:
            kept = sign_in_company.take_departure(opened, state, request.cookies.get(cookie))
    except NotSignedInError as failure:
        return _failed(failure, "expired")
    send_cookie(request, cookie, "", 0)
    if error or not code:
        return _failed(NotSignedInError("the provider sent no code"), "refused")
    try:
        claims = provider.arrive(code, _callback(request, parts), kept.nonce, kept.verifier)
    except ProviderError as failure:
        return _failed(failure, "provider")
    return _enter(request, parts, claims, kept.next_path)


def address_of(request: AnyRequest) -> str:
    """The address that the request came from."""
    return request.client.host if request.client else "unknown"


def _enter(request: AnyRequest, parts: Parts, claims: Claims, next_path: str) -> Redirect:
    try:
        with session(parts.database) as opened:
            person = sign_in_company.person_of(opened, parts.settings, claims)
            begin_session(request, opened, parts, person, "provider")
            audit.record(opened, person, "sign_in.done", method="provider")
    except NotSignedInError as failure:
        return _failed(failure, "refused")
    return Redirect(next_path, status_code=303)


def _failed(error: HeedError, problem: str) -> Redirect:
    log.warning("sign_in_failed", problem=problem, error=str(error), next="they may try again")
    return Redirect(f"/sign-in?problem={quote(problem)}", status_code=303)


def _provider(parts: Parts) -> IdentityProvider:
    if parts.provider is None:
        raise NotFoundError("no provider is set here; sign in by name and password")
    return parts.provider


def _callback(request: AnyRequest, parts: Parts) -> str:
    return (parts.settings.public_url or str(request.base_url).rstrip("/")) + CALLBACK


def _visit_cookie(request: AnyRequest, parts: Parts) -> str:
    return f"__Host-{VISIT_COOKIE}" if is_https(request, parts.settings) else VISIT_COOKIE


def _check_passwords_are_used(parts: Parts) -> None:
    if not parts.settings.sign_in.passwords:
        raise NotFoundError("nobody signs in by password here; use the company account")
