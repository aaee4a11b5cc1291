"""Secrets in the options of plugins: written as a reference, revealed to the plugin alone.

A reference names an environment variable (env:HEED_SECRET_NAME) or a file that the deployment
mounts (file:NAME, in /run/secrets). Others cannot be named, so that whoever may set up a source
cannot have it send away the server's other secrets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.errors import SettingsError
from service.plugin_fields import OptionField

FOLDER = Path("/run/secrets")
PREFIX = "HEED_SECRET_"
HOW = f"write env:{PREFIX}NAME, or file:NAME for a file in {FOLDER}"

MASK = "••••••"

_REFERENCE = re.compile(rf"env:{PREFIX}[A-Z0-9_]+|file:[A-Za-z0-9][A-Za-z0-9._-]*")
_SOUNDS_SECRET = re.compile("secret|key|password|token|hash|dsn|credential", re.IGNORECASE)


def is_reference(value: object) -> bool:
    """Whether a value names where a secret stands, and so is none itself."""
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def revealed(
    options: Mapping[str, Any], fields: Sequence[OptionField], place: str
) -> dict[str, Any]:
    """The options with each secret in the place of its reference; SettingsError where there is
    nothing. A secret that a settings file holds itself stays as it is."""
    secret = {field.name for field in fields if field.kind == "secret"}
    return {
        name: _revealed(value, f"{place}.options.{name}")
        if name in secret and is_reference(value)
        else value
        for name, value in options.items()
    }


def secrets_in(options: Mapping[str, Any], fields: Sequence[OptionField]) -> tuple[str, ...]:
    """The secrets among revealed options, longest first, so that none is left in another's rest."""
    kept = (options.get(field.name) for field in fields if field.kind == "secret")
    return tuple(sorted({str(value) for value in kept if value}, key=len, reverse=True))


def masked(options: Mapping[str, Any], fields: Sequence[OptionField] | None) -> dict[str, Any]:
    """The options as people may see them: references are shown, secrets are not."""
    secret = {field.name for field in fields or () if field.kind == "secret"}
    return {
        name: MASK if _hidden(name, value, name in secret, fields is not None) else value
        for name, value in options.items()
    }


def _hidden(name: str, value: object, secret: bool, told: bool) -> bool:
    if is_reference(value):
        return False
    return secret or (not told and _SOUNDS_SECRET.search(name) is not None)


def _revealed(reference: str, place: str) -> str:
    kind, _, name = reference.partition(":")
    if kind == "env":
        value = os.environ.get(name)
        if not value:
            raise SettingsError(f"setting {place} names the variable {name}, which is not set")
        return value
    try:
        return (FOLDER / name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"setting {place} names {FOLDER / name}: {error}") from error
