"""Runs a plugin in a process of its own, so that nothing it does reaches this one.

The process is started at the first call, ended with all its children where a call exceeds its
limit, and started again at the next. What the plugin prints is caught, and shown where its
process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from service.plugin_calls import Fault, PluginClass
from service.plugin_fields import OptionField
from service.plugin_limits import PluginLimits

LONGEST_LINE = 100_000_000
"""Bytes of one message; the largest document that is kept has 5 million characters."""
_PRINTED_KEPT = 2_000
_NO_MESSAGE = "sent what is no message; its process was ended"
_END_WAIT_S = 5.0


class PluginProcess:
    """A plugin behind a process; satisfies plugin_host.Runner. One call at a time, the others
    wait for it."""

    def __init__(self, target: str, limits: PluginLimits) -> None:
        self._target = target
        self._limits = limits
        self._lock = threading.RLock()
        self._running: _Running | None = None
        self._make: dict[str, Any] | None = None
        self.peak_mb = 0
        """The most memory that the process was seen to use, in megabytes."""

    def classes_of(self, target: str) -> list[PluginClass]:
        """Import a plugin, which need not be this one, and say what it brings; Fault where that
        fails or takes too long."""
        with self._lock, self._guarded():
            self._running = self._running or _Running.start(self._limits.memory_mb)
            try:
                return [_class(data) for data in self._open(target)]
            except (KeyError, TypeError) as error:
                raise _GoneError(_NO_MESSAGE) from error

    def make(self, hook: str, name: str, options: Mapping[str, Any]) -> None:
        """Make one of the plugin's classes; calls then go to that."""
        with self._lock, self._guarded():
            self._make = {"do": "make", "hook": hook, "name": name, "options": dict(options)}
            if self._running is not None:
                self._ask(self._make, self._limits.start_s)
            self._ready()

    def call(self, method: str, given: Any, limit_s: float | None = None) -> Any:
        """Ask the object that was made; `limit_s` in the place of the usual limit."""
        request = {"do": "call", "method": method, "given": given}
        with self._lock, self._guarded():
            self._ready()
            return self._ask(request, limit_s or self._limits.call_s)

    def items(self, cursor: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """The items of the source that was made. The process ends with the iteration."""
        limit_s = self._limits.call_s
        try:
            with self._guarded():
                self._ready()
                self._send({"do": "items", "cursor": dict(cursor)}, limit_s)
                while (item := self._hear(limit_s).get("item")) is not None:
                    if not isinstance(item, dict) or "kind" not in item:
                        raise _GoneError(_NO_MESSAGE)
                    yield item
                    if item["kind"] == "checkpoint":
                        self._send({"do": "go on"}, limit_s)
        finally:
            self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            if self._running is not None:
                self._running.end()
                self._running = None

    def _open(self, target: str) -> list[dict[str, Any]]:
        request = {"do": "open", "target": target}
        return list(self._ask(request, self._limits.start_s))

    def _ready(self) -> None:
        """Start the process, and make again what was made, unless it runs."""
        if self._running is None:
            self._running = _Running.start(self._limits.memory_mb)
            self._open(self._target)
            if self._make is not None:
                self._ask(self._make, self._limits.start_s)

    def _send(self, request: Mapping[str, Any], limit_s: float) -> None:
        if self._running is None:
            raise _GoneError("was ended meanwhile")
        self._running.send(request, limit_s)

    def _ask(self, request: Mapping[str, Any], limit_s: float) -> Any:
        self._send(request, limit_s)
        return self._hear(limit_s).get("answer")

    def _hear(self, limit_s: float) -> dict[str, Any]:
        """The next message; raises the Fault that it tells."""
        if self._running is None:
            raise _GoneError("was ended meanwhile")
        message = self._running.hear(limit_s)
        self.peak_mb = max(self.peak_mb, message["peak_mb"])
        fault = message.get("fault")
        if fault is None:
            return message
        if not isinstance(fault, dict) or set(fault) != {"told", "kind", "seconds"}:
            raise _GoneError(_NO_MESSAGE)
        told = str(fault["told"])
        if fault["kind"] == "memory":
            self.close()
            told = f"asked for more than {self._limits.memory_mb} MB (plugin_limits.memory_mb)"
        raise Fault(told, fault["kind"], fault["seconds"])

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """End the process after whatever leaves it in an unknown state."""
        try:
            yield
        except Fault:
            raise
        except _GoneError as error:
            peak, told = self._end_of(error)
            self.peak_mb = max(self.peak_mb, peak)
            raise Fault(told) from error
        except BaseException:
            # Interrupted in between: the next answer would be that to an earlier question.
            self.close()
            raise

    def _end_of(self, error: _GoneError) -> tuple[int, str]:
        running, self._running = self._running, None
        if running is None:
            return 0, str(error)
        peak = _peak_mb(running.process.pid)
        running.end()
        return peak, str(error) or running.epitaph()


class _GoneError(Exception):
    """The process did not answer in time, or is dead; the text is empty where it died."""


@dataclass(frozen=True)
class _Running:
    """A running process and its pipes."""

    process: subprocess.Popen[bytes]
    requests: int
    answers: int
    printed: _Printed
    heard: bytearray

    @classmethod
    def start(cls, memory_mb: int) -> _Running:
        readable, requests = os.pipe()
        answers, writable = os.pipe()
        try:
            command = ["-P", "-m", "service.plugin_child", str(readable), str(writable)]
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, *command, str(memory_mb)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(readable, writable),
                env=_environment(),
                start_new_session=True,
            )
        finally:
            os.close(readable)
            os.close(writable)
        os.set_blocking(requests, False)
        running = cls(process, requests, answers, _Printed(process), bytearray())
        weakref.finalize(running.printed, _end, process, requests, answers)
        return running

    def send(self, message: Mapping[str, Any], limit_s: float) -> None:
        """Send a message; _GoneError where the process does not take it."""
        line = memoryview(json.dumps(message).encode() + b"\n")
        until = time.monotonic() + limit_s
        while line:
            _await(self.requests, select.POLLOUT, until, limit_s)
            try:
                line = line[os.write(self.requests, line) :]
            except BrokenPipeError as error:
                raise _GoneError from error

    def hear(self, limit_s: float) -> dict[str, Any]:
        """The next message; _GoneError where none comes within the limit."""
        until = time.monotonic() + limit_s
        searched = 0
        while (end := self.heard.find(b"\n", searched)) < 0:
            searched = len(self.heard)
            _await(self.answers, select.POLLIN, until, limit_s)
            some = os.read(self.answers, 1 << 20)
            if not some:
                raise _GoneError
            self.heard.extend(some)
            if len(self.heard) > LONGEST_LINE:
                raise _GoneError(f"sent more than {LONGEST_LINE} bytes at once; its process ended")
        line = bytes(self.heard[:end])
        del self.heard[: end + 1]
        return _message(line)

    def end(self) -> None:
        """Kill the process and all it started."""
        _end(self.process, self.requests, self.answers)

    def epitaph(self) -> str:
        """How the process ended, with the last line it printed."""
        code = self.process.returncode
        how = f"ended with exit code {code}" if code >= 0 else f"died of {_signal_name(-code)}"
        last = self.printed.last_line()
        return f"its process {how}" + (f"; it last printed: {last}" if last else "")


class _Printed:
    """What a process prints; only the end of it is kept."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._tail = bytearray()
        self._reader = threading.Thread(
            target=_drain, args=(process, self._tail), name="plugin-output", daemon=True
        )
        self._reader.start()

    def last_line(self) -> str:
        """The last line that is not blank."""
        self._reader.join(_END_WAIT_S)
        lines = bytes(self._tail).decode("utf-8", "replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _drain(process: subprocess.Popen[bytes], tail: bytearray) -> None:
    output = process.stdout
    if output is None:
        return
    with output, contextlib.suppress(OSError, ValueError):
        while some := os.read(output.fileno(), 1 << 16):
            tail.extend(some)
            del tail[:-_PRINTED_KEPT]


def _await(descriptor: int, event: int, until: float, limit_s: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    left = until - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise _GoneError(f"did not answer within {limit_s:g} s; its process was ended")


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
        message["peak_mb"] = int(message["peak_mb"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _GoneError(_NO_MESSAGE) from error
    return dict(message)


def _end(process: subprocess.Popen[bytes], requests: int, answers: int) -> None:
    """Kill the process with its children, those in other groups too, and close its pipes."""
    if process.returncode is not None:
        return
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait()
    for descriptor in (requests, answers):
        os.close(descriptor)


def _peak_mb(pid: int) -> int:
    """The most memory that a process has used; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(peak.split()[1]) // 1024


def _environment() -> dict[str, str]:
    """Ours without our settings, which hold secrets, and with our way to find modules."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEED_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _class(data: Mapping[str, Any]) -> PluginClass:
    fields = tuple(
        OptionField(**{**field, "choices": tuple(field["choices"])}) for field in data["fields"]
    )
    return PluginClass(data["hook"], data["name"], data["help"], fields)
