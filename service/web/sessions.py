"""Who is asking: the person behind the session cookie, and who may operate."""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import Any

from litestar import Request
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException

from service import people
from service.database import session
from service.errors import InvalidInputError
from service.settings import Settings
from service.tables import Person
from service.web.parts import GivenParts

COOKIE = "heed_session"
COOKIE_AGE_S = 365 * 24 * 3600

GivenPerson = NamedDependency[Person]
"""Whoever asks, as a parameter of a handler: `visitor`, `person`, `caller` or `operator`."""


def provide_visitor(request: Request[Any, Any, Any], parts: GivenParts) -> Person:
    """The person of the session; a new person, with a new session, where there is none."""
    token = request.cookies.get(COOKIE)
    with session(parts.database) as opened:
        person, kept = people.visitor(opened, token)
    if kept != token:
        request.scope["state"]["heed_cookie"] = _cookie(kept, request.url.scheme == "https")
    return person


def provide_person(request: Request[Any, Any, Any], parts: GivenParts) -> Person:
    """The person of the session; 401 where there is none."""
    with session(parts.database) as opened:
        person = people.person_by_token(opened, request.cookies.get(COOKIE))
    if person is None:
        raise NotAuthorizedException("you have no session here; open the page first")
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


def provide_operator(person: GivenPerson, parts: GivenParts) -> Person:
    """The person of the session if they may start runs and promote; else 403."""
    if not is_operator(person, parts.settings):
        raise PermissionDeniedException("only operators may do this; ask one of them")
    return person


def is_operator(person: GivenPerson, settings: Settings) -> bool:
    """Whether this person may start runs and promote."""
    return settings.visitors_operate or person.role == "operator"


def _cookie(token: str, secure: bool) -> str:
    cookie = SimpleCookie({COOKIE: token})
    morsel = cookie[COOKIE]
    morsel["path"], morsel["max-age"] = "/", str(COOKIE_AGE_S)
    morsel["httponly"], morsel["samesite"] = True, "Lax"
    if secure:
        morsel["secure"] = True
    return morsel.OutputString()
