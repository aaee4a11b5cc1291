"""Who is asking: the person behind the session cookie, and what their role lets them do."""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import Any, cast

from litestar import Request
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException

from service import people
from service.database import session
from service.errors import InvalidInputError
from service.roles import Role, may
from service.settings import Settings
from service.tables import Person
from service.web.parts import GivenParts

COOKIE = "heed_session"
COOKIE_AGE_S = 365 * 24 * 3600

GivenPerson = NamedDependency[Person]
"""Whoever asks, as a parameter of a handler: `visitor`, `person`, `caller`, or `reviewer`,
`operator` or `admin` for people of that role or a higher one."""


def provide_visitor(request: Request[Any, Any, Any], parts: GivenParts) -> Person:
    """The person of the session; a new person, with a new session, where there is none."""
    token = request.cookies.get(COOKIE)
    role = parts.settings.visitors
    if role == "none":
        return provide_person(request, parts)
    with session(parts.database) as opened:
        person, kept = people.visitor(opened, token, role)
    if kept != token:
        request.scope["state"]["heed_cookie"] = _cookie(kept, request.url.scheme == "https")
    return person


def provide_person(request: Request[Any, Any, Any], parts: GivenParts) -> Person:
    """The person of the session; 401 where there is none."""
    with session(parts.database) as opened:
        person = people.person_by_token(opened, request.cookies.get(COOKIE))
    if person is None:
        raise NotAuthorizedException("you are not signed in; sign in first")
    return person


def provide_caller(request: Request[Any, Any, Any], parts: GivenParts) -> Person:
    """The person of the bearer token, as of a session cookie of the same value; 401 without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotAuthorizedException("send your key in a header: Authorization: Bearer YOUR_KEY")
    try:
        with session(parts.database) as opened:
            return people.holder(opened, token.strip())
    except InvalidInputError as error:
        raise NotAuthorizedException(str(error)) from error


def provide_reviewer(person: GivenPerson, parts: GivenParts) -> Person:
    """The person of the session if they may decide on feedback; else 403."""
    return _with_role(person, parts.settings, "reviewer")


def provide_operator(person: GivenPerson, parts: GivenParts) -> Person:
    """The person of the session if they may start runs and promote; else 403."""
    return _with_role(person, parts.settings, "operator")


def provide_admin(person: GivenPerson, parts: GivenParts) -> Person:
    """The person of the session if they may manage people and keys; else 403."""
    return _with_role(person, parts.settings, "admin")


def role_of(person: Person, settings: Settings) -> Role:
    """What this person may do; everybody has the visitors' role at least."""
    least = "employee" if settings.visitors == "none" else settings.visitors
    return cast("Role", person.role) if may(person.role, least) else least


def _with_role(person: Person, settings: Settings, needed: Role) -> Person:
    if not may(role_of(person, settings), needed):
        raise PermissionDeniedException(f"only people with the role {needed} may do this")
    return person


def _cookie(token: str, secure: bool) -> str:
    cookie = SimpleCookie({COOKIE: token})
    morsel = cookie[COOKIE]
    morsel["path"], morsel["max-age"] = "/", str(COOKIE_AGE_S)
    morsel["httponly"], morsel["samesite"] = True, "Lax"
    if secure:
        morsel["secure"] = True
    return morsel.OutputString()
