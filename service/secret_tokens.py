"""Random tokens, of which the database keeps only the SHA-256: nobody who reads it can use one."""

from __future__ import annotations

import hashlib
import secrets

LONGEST_TOKEN = 256


def fresh_token() -> str:
    """256 random bits as 43 characters that URLs and cookies take as they are."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What is kept of a token. Random tokens need no salt and no slow hash."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def is_token(token: str | None) -> bool:
    """Whether this can be a token at all."""
    return bool(token) and len(str(token)) <= LONGEST_TOKEN
