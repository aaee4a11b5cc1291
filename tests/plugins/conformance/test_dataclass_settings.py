"""Settings without pydantic: a dataclass whose metadata says what a pydantic field would."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plugins.conformance.checking import Broken
from plugins.conformance.plugin_class import CLASS_CHECKS, PluginClass
from plugins.contract import OptionsError
from service.plugin_fields import checked, fields_of

SECRET = {"description": "The key.", "json_schema_extra": {"format": "password"}}


@dataclass(frozen=True)
class Settings:
    path: Path = field(metadata={"description": "The folder."})
    api_key: str = field(metadata=SECRET)
    page: int = field(default=100, metadata={"description": "Notes a page.", "ge": 1})


@dataclass(frozen=True)
class ShownKey:
    api_key: str = field(metadata={"description": "The key."})


@dataclass(frozen=True)
class BadDefault:
    page: int = field(default=0, metadata={"description": "Notes a page.", "ge": 1})


def run(name: str, settings: type[Any]) -> None:
    plugin = type("Notes", (), {"name": "notes", "Settings": settings})
    (check,) = (check for check in CLASS_CHECKS if check.name == name)
    check.run(PluginClass(plugin, "heed_data_sources"))


@pytest.mark.parametrize(
    "name",
    [
        "settings_explain_themselves",
        "settings_refuse_nonsense",
        "defaults_are_allowed_values",
        "secrets_are_marked",
    ],
)
def test_a_dataclass_keeps_the_promises_of_settings(name: str) -> None:
    run(name, Settings)


def test_its_faults_are_seen() -> None:
    with pytest.raises(Broken, match="the setting api_key is no SecretStr"):
        run("secrets_are_marked", ShownKey)
    with pytest.raises(Broken, match="the default of page, 0, is refused"):
        run("defaults_are_allowed_values", BadDefault)


def test_the_host_reads_it_as_the_kit_does() -> None:
    kinds = [(found.name, found.kind, found.help) for found in fields_of(Settings)]
    assert kinds == [
        ("path", "path", "The folder."),
        ("api_key", "secret", "The key."),
        ("page", "number", "Notes a page."),
    ]
    given = checked(Settings, {"path": "notes", "api_key": "xyzzy"})
    assert given == Settings(Path("notes"), "xyzzy", 100)
    with pytest.raises(OptionsError, match="option page is 0"):
        checked(Settings, {"path": "notes", "api_key": "xyzzy", "page": 0})
