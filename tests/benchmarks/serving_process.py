"""The real server, `heed serve`, in a process of its own over a base policy and a fresh home."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx

from service.settings import AnswerSettings, Settings, TrainingSettings, half_the_cores
from tests.benchmarks.ppo_vs_trl_setup import ROOT

STARTS_S = 180.0
"""A process that does not answer after this is given up."""
STOPS_S = 45.0


class NotStartedError(Exception):
    """A server did not begin to answer; the text has its last words."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    pid: int
    settings: Settings


def settings_for(
    base: Path, home: Path, answers: dict[str, Any], *, dtype: str = "auto", threads: int = 0
) -> Settings:
    """Settings of a deployment where nothing is scheduled, every visitor operates, and no question
    is refused for coming at the same time as others, unless `answers` say otherwise.

    `threads` 0 takes the default, half the cores.
    """
    return Settings(
        home=home,
        database_url=f"sqlite:///{home.resolve()}/heed.db",
        port=free_port(),
        base_policy=str(base),
        dtype=dtype,  # type: ignore[arg-type]
        threads=threads or half_the_cores(),
        visitors="operator",
        sync_schedule="",
        cleanup_schedule="",
        training=TrainingSettings(schedule=""),
        answers=AnswerSettings(**{"slowest_first_token": 1000, **answers}),
        log_format="json",
    )


@contextmanager
def served(settings: Settings) -> Iterator[Server]:
    """Serve until the block ends; NotStartedError unless questions are answered in time."""
    settings.home.mkdir(parents=True, exist_ok=True)
    (settings.home / "no-settings.toml").touch()
    shown = settings.model_dump(mode="json", exclude_none=True)
    environment = {
        f"HEED_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in shown.items()
    }
    # No settings file of whoever runs this.
    environment["HEED_CONFIG"] = str((settings.home / "no-settings.toml").resolve())
    command = [sys.executable, "-m", "service.cli", "serve"]
    url = f"http://{settings.host}:{settings.port}"
    log = settings.home / "server.log"
    with child(command, log, environment) as process:
        wait_until_ready(process, f"{url}/health/ready", log)
        yield Server(url, process.pid, settings)


@contextmanager
def child(
    command: Sequence[str], log: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, and with this process however that ends."""
    tied = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    with log.open("wb") as output:
        process = _start([*tied, *command], output, environment)
        try:
            yield process
        finally:
            _stop(process)


def wait_until_ready(
    process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float = STARTS_S
) -> None:
    """Return when `url` answers 200; NotStartedError where that takes too long."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5.0, trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    how = "did not answer in time" if process.poll() is None else f"ended ({process.returncode})"
    raise NotStartedError(f"the server {how}: {last_words(log)}")


def last_words(log: Path) -> str:
    """The last lines of a log in one."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " | ".join(line.strip() for line in lines[-3:]) or "it said nothing"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _start(
    command: Sequence[str], output: IO[bytes], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=0,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then end it with all it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOPS_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
