"""Installs packages of plugins into the environment that Heed runs in, and nothing else there."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path

from service.errors import HeedError, InvalidInputError
from service.plugin_calls import PROJECT
from service.plugin_finding import OURS


def install(packages: Sequence[str], options: Sequence[str] = ()) -> None:
    """Install with pip, holding every package that is there to its version.

    `packages` are names, folders, wheels or addresses; `options` go to pip as they stand.
    InvalidInputError for a plugin of one file; HeedError where pip cannot do it.
    """
    for package in packages:
        if package.endswith(".py"):
            raise InvalidInputError(
                f"{package} is no package; copy the file into the folder of plugins "
                "(setting plugin_folder), where it is found at the next start"
            )
    if find_spec("pip") is None:
        raise HeedError(
            f"pip is not installed beside {sys.executable}; add it with "
            f"{sys.executable} -m ensurepip, or install the package with the tool you use there"
        )
    with tempfile.TemporaryDirectory(prefix="heed-install-") as folder:
        held = Path(folder) / "held.txt"
        held.write_text("\n".join(pins()), "utf-8")
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
        command += ["-c", str(held), *options, *packages]
        done = subprocess.run(command, check=False)  # noqa: S603 - the operator asks for it
    if done.returncode:
        raise HeedError(
            "pip could not install it, as told above; a plugin that needs another version of "
            "something Heed uses cannot be installed beside it"
        )


def pins() -> list[str]:
    """The version of every package that is installed, but for packages of plugins: those may
    be installed anew."""
    versions: dict[str, str] = {}
    for found in distributions():
        # Of two of a name, the first on the path is the one that is imported.
        if found.metadata["Name"] and not _brings_plugins(found):
            versions.setdefault(canonical(found.metadata["Name"]), found.version)
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def canonical(name: str) -> str:
    """A distribution's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _brings_plugins(found: Distribution) -> bool:
    ours = found.metadata["Name"] == OURS
    return not ours and any(entry.group == PROJECT for entry in found.entry_points)
