"""Who may call a route, said where the route is defined: `security=needs("reviewer", "read")`.

The declaration stands in the OpenAPI document; sessions.py enforces it whenever a handler
asks for a person, and a test calls every route of that document as everybody.
"""

from __future__ import annotations

import re
from typing import Any, cast

from litestar.handlers import BaseRouteHandler
from litestar.openapi.spec import Components, SecurityRequirement, SecurityScheme

from service.roles import Role, Scope

PUBLIC: list[SecurityRequirement] = [{}]
"""For everybody, signed in or not."""

SCHEMES = Components(
    security_schemes={
        "session": SecurityScheme(
            type="apiKey",
            name="heed_session",
            security_scheme_in="cookie",
            description="Somebody signed in on the page; the role that they need is listed.",
        ),
        "key": SecurityScheme(
            type="http",
            scheme="bearer",
            description="An API key; the scope that it needs is listed.",
        ),
    }
)


def needs(role: Role, scope: Scope | None) -> list[SecurityRequirement]:
    """For people of this role or a higher one, and their keys of this scope; with None, for
    no key."""
    by_key: list[SecurityRequirement] = [] if scope is None else [{"key": [scope]}]
    return [{"session": [role]}, *by_key]


def key_only(scope: Scope) -> list[SecurityRequirement]:
    """For keys of this scope, and for no session."""
    return [{"key": [scope]}]


def needed_role(handler: BaseRouteHandler) -> Role:
    """The least role that may call a route; "employee" where none is declared."""
    return cast("Role", _declared(handler, "session") or "employee")


def needed_scope(handler: BaseRouteHandler) -> Scope | None:
    """The scope that a key must have to call a route; None where no key may."""
    return cast("Scope | None", _declared(handler, "key"))


def takes_sessions(handler: BaseRouteHandler) -> bool:
    """Whether a session may call a route: where it says so, or says nothing."""
    declared = _requirements(handler)
    return not declared or any("session" in requirement for requirement in declared)


def operation_id(_handler: BaseRouteHandler, method: str, path: list[Any]) -> str:
    """A route's name in the OpenAPI document: its method and path.

    Litestar's own begins with the function, whose name is lost where it runs in a thread.
    """
    parts = [part if isinstance(part, str) else part.name for part in path]
    return "_".join([method.lower(), *(re.sub(r"\W+", "_", part) for part in parts)])


def _declared(handler: BaseRouteHandler, scheme: str) -> str | None:
    listed = [entry[scheme] for entry in _requirements(handler) if scheme in entry]
    return listed[0][0] if listed and listed[0] else None


def _requirements(handler: Any) -> list[SecurityRequirement]:
    return list(handler.security or ())
