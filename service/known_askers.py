"""Who asked lately with which token, so that a refusal needs no database.

Only ids: whose a token is never changes, so nothing here can be out of date.
"""

from __future__ import annotations

import hashlib

MOST = 10_000
"""The token unseen for longest is forgotten first."""


class KnownAskers:
    """Person ids by token. One event loop uses it."""

    def __init__(self) -> None:
        self._ids: dict[bytes, str] = {}

    def remember(self, token: str | None, person_id: str) -> None:
        """This person has just asked with this token."""
        if token:
            self._ids.pop(_key(token), None)
            self._ids[_key(token)] = person_id
            if len(self._ids) > MOST:
                del self._ids[next(iter(self._ids))]

    def find(self, token: str | None) -> str | None:
        """Who asked with it, or None where that is not known."""
        return self._ids.get(_key(token)) if token else None


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
