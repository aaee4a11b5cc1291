"""Finds the plugins that are installed or lie in the folder of plugins. Imports none of them.

An installed one is an entry point of the group `heed`; in the folder every Python file is one,
under its own name. Where two have one name, the first found is used and the other listed with
what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from service.plugin_calls import PROJECT

OURS = "heed"
"""The distribution that the built-in plugins come in."""


@dataclass(frozen=True, slots=True)
class Found:
    """A plugin that was found. `target` says where plugin_calls.load finds it; `version` and
    `distribution` are "" for a file."""

    name: str
    target: str
    version: str = ""
    distribution: str = ""
    error: str | None = None

    @property
    def built_in(self) -> bool:
        """Whether it comes with Heed."""
        return self.distribution == OURS


def find(folder: Path | None, wanted: Sequence[str] | None) -> list[Found]:
    """Every plugin, the built-in ones first; only those of the names `wanted`, unless None."""
    installed = [_installed(entry) for entry in entry_points(group=PROJECT)]
    installed.sort(key=lambda found: (not found.built_in, found.name, found.target))
    every = [*installed, *_files(folder)]
    return list(_told_apart(one for one in every if wanted is None or one.name in wanted))


def _installed(entry: EntryPoint) -> Found:
    name, version = (entry.dist.name, entry.dist.version) if entry.dist else ("", "")
    return Found(entry.name, entry.value, version, name)


def _files(folder: Path | None) -> Iterator[Found]:
    if folder is None or not folder.is_dir():
        return
    for file in sorted(folder.glob("*.py")):
        if not file.name.startswith(("_", ".", "test_")):
            yield Found(file.stem, f"file:{file.resolve()}")


def _told_apart(every: Iterator[Found]) -> Iterator[Found]:
    seen: dict[str, Found] = {}
    for found in every:
        first = seen.setdefault(found.name, found)
        if first is found:
            yield found
        # The same distribution may be seen twice, as by two folders on the path.
        elif (first.target, first.distribution) != (found.target, found.distribution):
            told = f"another plugin has this name ({first.target}); uninstall or rename one"
            yield replace(found, error=told)
