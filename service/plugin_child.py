"""The process that one plugin runs in: requests and answers are lines of JSON on two pipes.

`python -m service.plugin_child READ_FD WRITE_FD MEMORY_MB` is started by plugin_process.py.
Whatever the plugin prints goes to stdout and stderr, which are not the protocol's.
"""

from __future__ import annotations

import ctypes
import dataclasses
import faulthandler
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from service.plugin_calls import FAULTS, Calls, Fault, fault_of, load

ORPHAN_CHECK_S = 1.0
_PR_SET_CHILD_SUBREAPER = 36
_RESERVE = 4 << 20


class Child:
    """Answers requests, one after another, until the pipe is closed."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._answers = answers
        self._process = os.getpid()
        self._calls: Calls | None = None
        # Room to tell that there is no room any more.
        self._reserve = bytearray(_RESERVE)

    def serve(self) -> None:
        """Answer every request."""
        while (request := self._next()) is not None:
            try:
                answer = self._answer(request)
            except FAULTS as error:
                fault = fault_of(error)
                if fault.kind == "memory":
                    self._reserve.clear()
                self._tell({"fault": _plain(fault)})
            else:
                self._tell({"answer": answer})

    def _answer(self, request: Mapping[str, Any]) -> Any:
        match request["do"]:
            case "open":
                self._calls = Calls(load(request["target"]))
                return [dataclasses.asdict(found) for found in self._calls.classes()]
            case "make":
                self._opened().make(request["hook"], request["name"], request["options"])
            case "items":
                self._list(request["cursor"])
            case "call":
                return self._opened().call(request["method"], request["given"])
        return None

    def _list(self, cursor: Mapping[str, Any]) -> None:
        for item in self._opened().items(cursor):
            self._tell({"item": item})
            # Nothing is read ahead of what is kept: a killed sync reads one page twice at most.
            if item["kind"] == "checkpoint" and self._next() is None:
                os._exit(0)

    def _opened(self) -> Calls:
        if self._calls is None:
            raise Fault("was asked before it was opened")
        return self._calls

    def _next(self) -> Any:
        line = self._requests.readline()
        return json.loads(line) if line else None

    def _tell(self, message: dict[str, Any]) -> None:
        if os.getpid() != self._process:
            # A plugin forked, and its copy of this process came back here.
            os._exit(0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        self._answers.write(json.dumps({**message, "peak_mb": peak}).encode() + b"\n")
        self._answers.flush()


def _plain(fault: Fault) -> dict[str, Any]:
    return {"told": fault.told, "kind": fault.kind, "seconds": fault.seconds}


def _limit(memory_mb: int) -> None:
    """Bound what the plugin may ask for, and let its stray children be found."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        # Not RLIMIT_AS: libraries reserve far more addresses than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb << 20, memory_mb << 20))
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _end_with(parent: int) -> None:
    """End this group of processes when the parent is gone, whatever the plugin is doing."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_S)
    os.killpg(0, signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    """Serve the pipes that the parent names."""
    readable, writable, memory_mb = map(int, arguments)
    parent = os.getppid()
    faulthandler.enable()
    _limit(memory_mb)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with os.fdopen(readable, "rb") as requests, os.fdopen(writable, "wb") as answers:
        os.register_at_fork(after_in_child=lambda: os.close(writable))
        Child(requests, answers).serve()
    # A plugin's threads that are no daemons must not keep the process.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
