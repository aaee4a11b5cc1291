"""An environment with TRL 1.12.0, the last release with PPOTrainer, beside the project's own.

The environment is a virtual one in the cache. It sees every package of the interpreter that
makes it (torch, transformers, peft), and puts TRL 1.12.0 before them, so that both sides of a
comparison run on the same libraries.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distributions
from pathlib import Path

TRL_VERSION = "1.12.0"
DEFAULT_FOLDER = Path.home() / ".cache" / "heed" / "benchmarks" / f"trl-{TRL_VERSION}"
_INSTALL_TIMEOUT_S = 300


class TrlUnavailableError(Exception):
    """The environment could not be made; the text says what to do."""


def ensure_environment(folder: Path = DEFAULT_FOLDER) -> Path:
    """Make the environment where it is missing; returns its Python.

    The first call fetches one wheel (1 MB) from the package index; TrlUnavailableError if that
    fails. Later calls need no network.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=False)
    packages = _packages(folder)
    if _installed(packages) != TRL_VERSION:
        _install(packages)
    # Rewritten each time: the cache outlives the interpreter that made it.
    (packages / "project.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def trl_file(name: str, folder: Path = DEFAULT_FOLDER) -> Path:
    """A source file of TRL 1.12.0, such as "experimental/ppo/ppo_trainer.py"."""
    ensure_environment(folder)
    return _packages(folder) / "trl" / name


def _packages(folder: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return folder / "lib" / version / "site-packages"


def _installed(packages: Path) -> str | None:
    """The version of TRL in a folder of packages, None without it."""
    found = distributions(name="trl", path=[str(packages)])
    return next((each.version for each in found), None)


def _install(packages: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--upgrade"]
    command += ["--target", str(packages), f"trl=={TRL_VERSION}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
        )
        trouble = done.stderr.strip().rpartition("\n")[2] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        trouble = str(error)
    if trouble:
        raise TrlUnavailableError(
            f"trl {TRL_VERSION} could not be installed into {packages}: {trouble}; connect to a "
            f"package index, or unpack the wheel trl-{TRL_VERSION}-py3-none-any.whl there"
        )


def add_argument(parser: argparse.ArgumentParser) -> None:
    """The option that names the environment's folder."""
    parser.add_argument(
        "--environment",
        type=Path,
        default=DEFAULT_FOLDER,
        help=f"folder of the environment with TRL {TRL_VERSION} (default: %(default)s)",
    )
