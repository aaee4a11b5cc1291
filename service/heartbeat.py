"""A server's sign of life: others leave promotions and runs to it while it is fresh."""

from __future__ import annotations

import threading

import structlog
from sqlalchemy import Engine

from service import leases
from service.database import session
from service.errors import HeedError

BEAT_S = 4.0

log = structlog.get_logger(__name__)


class Heartbeat:
    """A thread that writes this server's row every few seconds, and removes it at the end."""

    def __init__(self, database: Engine, instance_id: str, address: str) -> None:
        self._database, self._instance_id, self._address = database, instance_id, address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Write the first sign of life and go on in the background."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Say that this server stops."""
        self._stop.set()
        self._thread.join()
        try:
            with session(self._database) as opened:
                leases.leave(opened, self._instance_id)
        except HeedError as error:
            log.warning("leave_not_written", error=str(error), next="the row grows old by itself")

    def _run(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                self._beat()
            except Exception as error:  # noqa: BLE001 - without this thread the server counts as gone
                log.warning("beat_not_written", error=repr(error), next="tries again")

    def _beat(self) -> None:
        with session(self._database) as opened:
            leases.beat(opened, self._instance_id, self._address)
