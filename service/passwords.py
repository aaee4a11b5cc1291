"""Passwords: what is asked of a new one, and argon2 to keep and to check them.

Length is what makes a password hard to guess, so length is what is asked for; nobody has
to mix signs, and none expires (NIST SP 800-63B-4).
"""

from __future__ import annotations

import threading
import unicodedata
from functools import cache
from typing import NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from service.errors import InvalidInputError

SHORTEST, LONGEST = 15, 256
FEWEST_DIFFERENT = 5

_hasher = PasswordHasher()
# Each takes 64 MiB and a core for a moment, and anybody may ask for one.
_at_once = threading.BoundedSemaphore(2)


class Verdict(NamedTuple):
    """Whether the password is right, and its new hash where the kept one is out of date."""

    right: bool
    new_hash: str | None = None


def check_new(password: str, *names: str) -> None:
    """InvalidInputError, saying what to do, where a password is too easy to guess.

    `names` are what somebody who guesses would try first: the person's own.
    """
    text = _normal(password)
    if len(text) < SHORTEST:
        raise InvalidInputError(
            f"the password has {len(text)} characters; take {SHORTEST} or more, a short "
            "sentence for example"
        )
    if len(text) > LONGEST:
        raise InvalidInputError(f"the password has more than {LONGEST} characters; shorten it")
    if len(set(text)) < FEWEST_DIFFERENT or text.casefold() in {
        _normal(name).casefold() for name in names
    }:
        raise InvalidInputError("the password is too easy to guess; take another one")


def hash_of(password: str) -> str:
    """What is kept of a password."""
    with _at_once:
        return _hasher.hash(_normal(password))


def verify(kept: str | None, password: str) -> Verdict:
    """Whether this is the password of the kept hash; as slow where there is none."""
    text = _normal(password[: LONGEST + 1])
    compared = kept or _of_nobody()
    with _at_once:
        try:
            _hasher.verify(compared, text)
        except (VerificationError, InvalidHashError):
            return Verdict(right=False)
    if kept is None:
        return Verdict(right=False)
    outdated = _hasher.check_needs_rehash(kept)
    return Verdict(right=True, new_hash=hash_of(password) if outdated else None)


@cache
def _of_nobody() -> str:
    return _hasher.hash("the password of nobody")


def _normal(password: str) -> str:
    """The same signs typed on another keyboard are the same password."""
    return unicodedata.normalize("NFKC", password)
