"""The demonstration's server: a process of its own, as in real use."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from service.errors import TrainingRunError

START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 40
POLL_S = 0.3


class DemoServer:
    """`heed serve` on the demonstration's settings (HEED_CONFIG is set already)."""

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; the page is served at once, answers come when the policy is loaded.
        TrainingRunError where the port is taken."""
        self.require_free_port()
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", "service.demo.server", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the demonstration, which then stops the server in order.
                process_group=0,
            )

    def wait_until_ready(self) -> float:
        """Wait until questions are answered; returns how many seconds that took."""
        began = time.monotonic()
        paused = threading.Event()
        while time.monotonic() - began < START_TIMEOUT_S:
            self.require_alive()
            if self._is_ready():
                return time.monotonic() - began
            paused.wait(POLL_S)
        raise TrainingRunError(
            f"the server was not ready within {START_TIMEOUT_S} s; {self._log} says why"
        )

    def require_free_port(self) -> None:
        """Raise TrainingRunError where the port cannot be listened on: whatever answers there
        would be taken for this server."""
        try:
            socket.create_server(("127.0.0.1", self._port)).close()
        except OSError as error:
            raise TrainingRunError(
                f"port {self._port} cannot be used: {error.strerror}; end what listens there, "
                "such as another demonstration, or give another by --port"
            ) from error

    def require_alive(self) -> None:
        """Raise TrainingRunError where the server has ended."""
        if self._process is None or self._process.poll() is not None:
            code = self._process.poll() if self._process else None
            raise TrainingRunError(
                f"the server ended with code {code}; {self._log} says why. "
                "A port in use is the usual cause: give another by --port"
            )

    def wait(self) -> None:
        """Wait until the server ends by itself or Ctrl-C."""
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """Let it finish its answers, then end it."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


def main() -> int:
    """Serve, and end with the demonstration even where that is killed."""
    from service.cli import main as heed
    from service.worker import die_with

    if not die_with(int(sys.argv[1])):
        return 1
    return heed(["serve"])


if __name__ == "__main__":
    sys.exit(main())
