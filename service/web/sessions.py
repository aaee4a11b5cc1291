"""Who is asking: the person behind the session cookie or the API key, and what they may do.

What a route asks for stands in its `security` (rights.py) and in its parameters: a
`reviewer`, `operator` or `admin` is a person of that role or a higher one.
"""

from __future__ import annotations

from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from sqlmodel import Session

from service import api_keys, people, sign_in_sessions
from service.database import session
from service.errors import InvalidInputError
from service.roles import Role, may
from service.settings import Settings
from service.tables import Person
from service.web.parts import GivenParts, Parts
from service.web.rights import needed_role, needed_scope, takes_sessions

COOKIE = "heed_session"
SECURE_COOKIE = "__Host-heed_session"
"""Where the page is https: browsers take and send a cookie of this name by https alone."""

DAY_S = 24 * 3600
NOT_SIGNED_IN = "you are not signed in; sign in first"
SEND_A_KEY = "send your key in a header: Authorization: Bearer YOUR_KEY"

AnyConnection = ASGIConnection[Any, Any, Any, Any]

GivenPerson = NamedDependency[Person]
"""Whoever asks, as a parameter of a handler: `visitor`, `person`, `caller`, or `reviewer`,
`operator` or `admin` for people of that role or a higher one."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody known, and by what: `method` is "password", "provider", "link", "visit" or
    "key". `session_id` is the session's, None for a key."""

    person: Person
    method: str
    session_id: str | None = None


GivenAsker = NamedDependency[Asker]
"""Whoever asks with how they are known: `asker`, or `guest` who may be a new visitor."""


def provide_asker(request: Request[Any, Any, Any], parts: GivenParts) -> Asker:
    """Who has this session or key; 401 where nobody has, 403 where it may not do this."""
    asker = _known(request, parts)
    if asker is None:
        raise NotAuthorizedException(NOT_SIGNED_IN)
    return _with_role(asker, needed_role(request.route_handler))


def provide_guest(request: Request[Any, Any, Any], parts: GivenParts) -> Asker:
    """The same, but a new visitor, with a new session, where visitors have a role."""
    role = parts.settings.visitors
    asker = _known(request, parts)
    if asker is not None:
        return _with_role(asker, needed_role(request.route_handler))
    if role == "none":
        raise NotAuthorizedException(NOT_SIGNED_IN)
    with session(parts.database) as opened:
        person = people.new_visitor(opened, role)
        row = begin_session(request, opened, parts, person, "visit")
    return _with_role(Asker(person, "visit", row), needed_role(request.route_handler))


def provide_visitor(guest: GivenAsker) -> Person:
    """The person of the session; a new visitor where there is none and visitors have a role."""
    return guest.person


def provide_person(asker: GivenAsker) -> Person:
    """The person of the session or key; 401 where there is none."""
    return asker.person


def provide_caller(asker: GivenAsker) -> Person:
    """The person of the key."""
    return asker.person


def provide_reviewer(asker: GivenAsker) -> Person:
    """The person if they may decide on feedback; else 403."""
    return _with_role(asker, "reviewer").person


def provide_operator(asker: GivenAsker) -> Person:
    """The person if they may start runs and promote; else 403."""
    return _with_role(asker, "operator").person


def provide_admin(asker: GivenAsker) -> Person:
    """The person if they may manage people and keys; else 403."""
    return _with_role(asker, "admin").person


def begin_session(
    request: Request[Any, Any, Any], opened: Session, parts: Parts, person: Person, method: str
) -> str:
    """Sign this person in with this browser: a new token, whatever it had before; the id."""
    end_session(request, opened, parts)
    agent = request.headers.get("user-agent", "")
    row, token = sign_in_sessions.begin(opened, person, method, agent, parts.settings)
    send_session(request, parts.settings, token, method)
    return row.id


def end_session(request: Request[Any, Any, Any], opened: Session, parts: Parts) -> None:
    """End the session of this browser, if it has one."""
    sign_in_sessions.end_by_token(opened, session_token(request, parts.settings))


def send_session(
    request: Request[Any, Any, Any], settings: Settings, token: str, method: str
) -> None:
    """Put the session's cookie on the response."""
    visit = method == "visit"
    days = sign_in_sessions.VISIT_DAYS if visit else settings.sign_in.session_days
    send_cookie(request, cookie_name(request, settings), token, days * DAY_S)


def drop_session(request: Request[Any, Any, Any], settings: Settings) -> None:
    """Take the session's cookie from the browser."""
    send_cookie(request, cookie_name(request, settings), "", 0)


def send_cookie(
    request: Request[Any, Any, Any], name: str, value: str, age_s: int, path: str = "/"
) -> None:
    """Put a cookie that no script can read on the response; with age 0 take it away."""
    cookie = SimpleCookie({name: value})
    morsel = cookie[name]
    morsel["path"], morsel["max-age"] = path, str(age_s)
    morsel["httponly"], morsel["samesite"] = True, "Lax"
    if name.startswith("__"):
        morsel["secure"] = True
    sent = request.scope["state"].setdefault("heed_cookies", {})
    sent[name] = morsel.OutputString()


def session_token(connection: AnyConnection, settings: Settings) -> str | None:
    """The session token that the browser sent, not checked."""
    return connection.cookies.get(cookie_name(connection, settings))


def bearer(connection: AnyConnection) -> str | None:
    """The key that the client sent, not checked; "" for a header that holds none."""
    given = connection.headers.get("authorization")
    if given is None:
        return None
    scheme, _, token = given.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def cookie_name(connection: AnyConnection, settings: Settings) -> str:
    """Of the session's cookie here."""
    return SECURE_COOKIE if is_https(connection, settings) else COOKIE


def is_https(connection: AnyConnection, settings: Settings) -> bool:
    """Whether people open the page by https, as far as known."""
    public = settings.public_url or ""
    return public.startswith("https://") or connection.url.scheme == "https"


def _known(request: Request[Any, Any, Any], parts: Parts) -> Asker | None:
    key = bearer(request)
    if key is not None:
        return _by_key(request, parts, key)
    if not takes_sessions(request.route_handler):
        raise NotAuthorizedException(SEND_A_KEY)
    with session(parts.database) as opened:
        found = sign_in_sessions.signed_in(
            opened, session_token(request, parts.settings), parts.settings
        )
    if found is None:
        return None
    return Asker(found.person, found.session.method, found.session.id)


def _by_key(request: Request[Any, Any, Any], parts: Parts, key: str) -> Asker:
    scope, visitors = needed_scope(request.route_handler), parts.settings.visitors
    if not key:
        raise NotAuthorizedException(SEND_A_KEY)
    if scope is None:
        raise PermissionDeniedException("no key may do this; sign in on the page")
    try:
        with session(parts.database) as opened:
            found = api_keys.find_holder(opened, key, visitors)
            if found is None and visitors != "none":
                # A demonstration takes any key: whoever chose it is a visitor of their own.
                return Asker(people.holder(opened, key, visitors), "key")
    except InvalidInputError as error:
        raise NotAuthorizedException(str(error)) from error
    if found is None:
        raise NotAuthorizedException("this key is not known, was revoked or has run out")
    if scope not in found.key.scopes:
        raise PermissionDeniedException(f"this key may not do this; it needs the scope {scope}")
    return Asker(found.person, "key")


def _with_role(asker: Asker, needed: Role) -> Asker:
    if not may(asker.person.role, needed):
        raise PermissionDeniedException(f"only people with the role {needed} may do this")
    return asker
