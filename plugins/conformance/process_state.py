"""What a plugin leaves behind in the process it runs in."""

from __future__ import annotations

import gc
import locale
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plugins.conformance.checking import NotChecked, require

_OPEN_FILES = Path("/proc/self/fd")


@contextmanager
def left_alone() -> Iterator[None]:
    """Broken where the process's own state is another afterwards."""
    before = _state()
    yield
    changed = [name for name, value in _state().items() if before[name] != value]
    require(not changed, f"changed {' and '.join(changed)} of the whole process; leave them alone")


@contextmanager
def time_zone(name: str) -> Iterator[None]:
    """Let the process be in a time zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def _state() -> dict[str, object]:
    return {
        "the working folder": Path.cwd(),
        "the environment": dict(os.environ),
        "the locale": locale.setlocale(locale.LC_ALL),
        "the signal handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "the default timeout of sockets": socket.getdefaulttimeout(),
        "the recursion limit": sys.getrecursionlimit(),
    }


def open_things() -> dict[str, int]:
    """How many files and threads the process has open; NotChecked where it cannot tell."""
    if not _OPEN_FILES.is_dir():
        raise NotChecked("open files are counted on Linux only")
    with warnings.catch_warnings():
        # A file closed by the collector is a leak too slow to count here.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return {"files": len(list(_OPEN_FILES.iterdir())), "threads": threading.active_count()}


def require_no_more(before: dict[str, int], wait_s: float = 2.0) -> None:
    """Broken where more is open than before, and still is after `wait_s`."""
    until = time.monotonic() + wait_s
    while True:
        more = {name: count - before[name] for name, count in open_things().items()}
        left = {name: count for name, count in more.items() if count > 0}
        if not left or time.monotonic() > until:
            require(
                not left, f"left open: {left}; close them when items() is closed (with, finally)"
            )
            return
        time.sleep(0.05)
