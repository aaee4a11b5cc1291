"""Folders that are there whole or not at all: filled under a temporary name, then renamed."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_engine.files import flush

STALE_S = 3600.0


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; on success it takes the name `target`, durably.

    On any error the folder is removed and nothing appears at `target`. A folder that is
    there already stays: whoever came first has published the same. What a killed process
    left behind is removed after an hour.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
    try:
        yield temporary
        _make_readable(temporary)
        flush_all(temporary)
        _rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    flush(target.parent)


def flush_all(folder: Path) -> None:
    """Make every file of the folder, and the folder itself, survive a power loss."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def size_of(folder: Path) -> int:
    """Bytes in all files below the folder; files that vanish while it counts are left out."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _make_readable(folder: Path) -> None:
    """Temporary files are private; a published folder is read by other users too."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _rename(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _prefix(target: Path) -> str:
    return f".{target.name}.part-"


def _remove_stale(target: Path) -> None:
    for path in target.parent.glob(f"{_prefix(target)}*"):
        try:
            old = time.time() - path.stat().st_mtime > STALE_S
        except FileNotFoundError:
            continue
        if old:
            shutil.rmtree(path, ignore_errors=True)
