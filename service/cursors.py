"""Places in long lists: where one page of it ended, as the text that asks for the next."""

from __future__ import annotations

import base64
import binascii
from typing import Any, TypeVar

import msgspec

from service.errors import InvalidInputError

Place = TypeVar("Place")


def cursor(place: Any) -> str:
    """The text of a place."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def place(text: str, kind: type[Place]) -> Place | None:
    """The place of a text, None of ""; InvalidInputError for any other text."""
    if not text:
        return None
    try:
        found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return msgspec.json.decode(found, type=kind)
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise InvalidInputError(
            f"the place {text[:80]!r} must be the `next` of an earlier page"
        ) from error
