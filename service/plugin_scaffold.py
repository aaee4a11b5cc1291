"""Writes a new plugin: one file with its settings, and a test that passes at once."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Literal

from service.errors import ConflictError, InvalidInputError

Kind = Literal["source", "signal"]

_ENTRIES = {
    "source": ("sources", 'options = { path = "notes" }'),
    "signal": ("signals", "weight = 0.1"),
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def write_plugin(folder: Path, kind: Kind, name: str) -> tuple[Path, Path]:
    """Write the plugin and its test into the plugin folder; the paths of both.

    InvalidInputError for a name that cannot be one; ConflictError where something has it.
    """
    _check_name(name)
    plugin, test = folder / f"{name}.py", path_of_test(folder, name)
    for path in (plugin, test):
        if path.exists():
            raise ConflictError(f"{path} exists already; choose another name, or remove it")
    test.parent.mkdir(parents=True, exist_ok=True)
    plugin.write_text(_filled(f"{kind}.txt", name), "utf-8")
    test.write_text(_filled(f"{kind}_test.txt", name), "utf-8")
    return plugin, test


def path_of_test(folder: Path, name: str) -> Path:
    """Where the test of the plugin `name` stands: beside it, for pytest finds it there."""
    return folder / f"test_{name}.py"


def settings_entry(kind: Kind, name: str) -> str:
    """What to write in heed.toml to use it."""
    table, rest = _ENTRIES[kind]
    return f'[[{table}]]\nname = "{_dashed(name)}"\nplugin = "{name}"\n{rest}'


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise InvalidInputError(
            f"the name {name!r} cannot be a plugin's; give small letters, digits and _, at most "
            "40, beginning with a letter"
        )
    taken = {entry.name for entry in entry_points(group="heed")}
    if name in taken or name in sys.stdlib_module_names or find_spec(name) is not None:
        raise ConflictError(f"a plugin or module is named {name} already; choose another name")


def _filled(template: str, name: str) -> str:
    text = files("service").joinpath("plugin_templates", template).read_text("utf-8")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    return Template(text).substitute(name=name, class_name=class_name)


def _dashed(name: str) -> str:
    return name.strip("_").replace("_", "-")
