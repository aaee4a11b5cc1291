"""The roles, in order: a higher one may do all that a lower one may; and the scopes of keys."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["employee", "reviewer", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

Visitors = Literal["none", "employee", "reviewer", "operator", "admin"]
"""The role that everybody who opens the page has, or "none" where people sign in."""


def may(role: str, needed: Role) -> bool:
    """Whether somebody of this role may do what `needed` may."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(needed)


Scope = Literal["chat", "feedback", "read", "operate", "admin"]
"""What an API key is for; its owner's role limits it further."""

SCOPES: dict[Scope, Role] = {
    "chat": "employee",
    "feedback": "employee",
    "read": "employee",
    "operate": "reviewer",
    "admin": "admin",
}
"""The scopes, each with the least role that may give it to a key."""
