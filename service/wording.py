"""Text that comes from outside: what can be stored, how long it may be, whether it changed."""

from __future__ import annotations

import re

from rlhf_engine.files import sha256_of_json
from service.errors import InvalidInputError

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def readable(name: str, text: str, longest: int) -> str:
    """The text without spaces at its ends.

    `longest` counts characters. Raises InvalidInputError where the text is empty, longer,
    or holds what no database can store (NUL, half of a surrogate pair).
    """
    stripped = text.strip()
    if not stripped:
        raise InvalidInputError(f"{name} is empty; write something")
    if len(stripped) > longest:
        raise InvalidInputError(
            f"{name} has {len(stripped)} characters; at most {longest} are kept, shorten it"
        )
    if not storable(stripped):
        raise InvalidInputError(f"{name} holds a character that is no text; remove it")
    return stripped


def storable(text: str) -> bool:
    """Whether every database can keep the text as it is."""
    return _UNSTORABLE.search(text) is None


def content_hash(*parts: object) -> str:
    """SHA-256 over JSON types, to tell whether something changed."""
    return sha256_of_json(parts)
