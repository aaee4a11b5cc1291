"""One try at a run in a process of its own, which is killed at a moment, at a write, or in one.

The process is forked from one that has loaded everything and computed nothing (a process
whose torch has started threads cannot be forked), since loading takes longer than a tiny run.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rlhf_engine.pipeline import train

LONGEST_TRY_S = 300.0
PROGRESS = "progress.json"

How = Literal["moment", "write", "cut"]


@dataclass(frozen=True)
class Kill:
    """How a try ends: `after_s` seconds, right before write number `write`, or where a file has
    grown by `length` bytes from that write on, in the middle of its content."""

    how: How
    after_s: float = 0.0
    write: int = 0
    length: int = 0


@dataclass(frozen=True)
class Traced:
    """An uninterrupted try: how long it took, its writes (second, path in the run), and the
    modules that it loaded."""

    seconds: float
    writes: Sequence[tuple[float, str]]
    modules: Sequence[str]


class FailedError(Exception):
    """A try ended neither well nor by its kill."""


class Watch:
    """An audit hook that numbers the writes below a folder, each before it happens.

    Those of progress.json are left out: how many there are is a matter of time.
    """

    def __init__(self, folder: Path, on_write: Callable[[int, str], None]) -> None:
        self._folder, self._on_write, self._count = f"{folder}{os.sep}", on_write, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR):
                return
        elif event in ("os.rename", "os.remove", "os.mkdir"):
            path = arguments[0]
        else:
            return
        name = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
        if name.startswith(self._folder) and PROGRESS not in name:
            self._count += 1
            self._on_write(self._count, name.removeprefix(self._folder))


def in_child(work: Callable[[], None], errors: Path) -> int:
    """Fork a process for `work` and return its id; what it raises is written to `errors`."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the parent tells it
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        errors.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def done(child: int, errors: Path) -> bool:
    """Wait for a process: whether it ended well; False where it was killed, FailedError where
    it failed."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in (-signal.SIGKILL, -signal.SIGXFSZ):
        return False
    if code:
        raise FailedError(errors.read_text() if errors.exists() else f"exit code {code}")
    return True


def killed_try(run: Path, kill: Kill, errors: Path) -> bool:
    """Work on the run until the kill; whether the run came to its end before."""
    return killed(lambda tells: _try(run, kill, tells), kill, errors)


def killed(work: Callable[[int], None], kill: Kill, errors: Path) -> bool:
    """Do the work in a process until the kill; whether it came to its end before. The work
    is given the descriptor by which to say that it is time."""
    told, tells = os.pipe()
    child = in_child(lambda: work(tells), errors)
    os.close(tells)
    wait_s = kill.after_s if kill.how == "moment" else LONGEST_TRY_S
    # The pipe becomes readable where the child says that it is time, and where it has ended.
    select.select([told], [], [], wait_s)
    os.close(told)
    if kill.how != "cut":
        os.kill(child, signal.SIGKILL)
    return done(child, errors)


def uninterrupted_try(run: Path, errors: Path) -> Traced:
    """Work on the run to its end, watched."""
    trace = errors.with_suffix(".json")

    def work() -> None:
        started, writes = time.monotonic(), []
        watch = Watch(run, lambda _, name: writes.append((time.monotonic() - started, name)))
        sys.addaudithook(watch)
        _train(run)
        seconds = time.monotonic() - started
        trace.write_text(json.dumps([seconds, writes, sorted(sys.modules)]))

    done(in_child(work, errors), errors)
    return Traced(*json.loads(trace.read_text()))


def preload(modules: Sequence[str]) -> None:
    """Load what the tries load, once for all of them."""
    for name in modules:
        with suppress(ImportError):
            importlib.import_module(name)


def _try(run: Path, kill: Kill, tells: int) -> None:
    if kill.how == "write":
        sys.addaudithook(Watch(run, lambda number, _: stop_at(number, kill, tells)))
    elif kill.how == "cut":
        sys.addaudithook(Watch(run, lambda number, name: limit_at(number, run / name, kill)))
    _train(run)


def _train(run: Path) -> None:
    """Train with global random streams that no other try had: nothing may depend on them."""
    seed = int.from_bytes(os.urandom(4))
    random.seed(seed)
    torch.manual_seed(seed)
    train(run)


def stop_at(number: int, kill: Kill, tells: int) -> None:
    """Where this is the kill's write, say that it is time, and do no more."""
    if number == kill.write:
        os.write(tells, b"!")
        signal.pause()


def limit_at(number: int, path: Path, kill: Kill) -> None:
    """Where this is the kill's write: from now on the kernel ends the process where a file grows
    by more than the length."""
    if number == kill.write:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        grown = (path.stat().st_size if path.is_file() else 0) + kill.length
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (grown, hard))
