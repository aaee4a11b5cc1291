"""The threads of a server go on when the database does what nobody thought of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError
from structlog.testing import capture_logs

from service import conducting, heartbeat, swap, training
from service.database import session
from service.heartbeat import Heartbeat
from service.leases import live_server
from service.serving import Serving
from service.swap import Swapper
from service.tables import ServiceInstance, TrainingRun
from service.training import Conductor
from tests.journeys.conftest import settings_for
from tests.journeys.server import eventually
from tests.tiny import tiny_base

ON_POSTGRESQL = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
"""There a table that is missing is no error of operation."""


@contextmanager
def without(engine: Engine, table: str) -> Iterator[None]:
    """The table has another name meanwhile."""

    def rename(old: str, new: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(f'ALTER TABLE "{old}" RENAME TO "{new}"'))

    rename(table, "away")
    try:
        yield
    finally:
        rename("away", table)


def hears(event: str, engine: Engine, table: str) -> None:
    """The event is logged, with the error, while the table is away."""
    with capture_logs() as said, without(engine, table):
        eventually(lambda: any(line["event"] == event for line in said))
    told = next(line for line in said if line["event"] == event)
    assert ProgrammingError.__name__ in told["error"]
    assert told["next"]


@ON_POSTGRESQL
def test_a_server_gives_signs_of_life_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.05)
    beats = Heartbeat(engine, "a", "http://localhost")
    beats.start()
    hears("beat_not_written", engine, str(ServiceInstance.__tablename__))

    def seen() -> ServiceInstance | None:
        with session(engine) as opened:
            return live_server(opened)

    last = seen()
    assert last is not None
    assert eventually(lambda: (now := seen()) and now.seen_at > last.seen_at)
    beats.stop()


@ON_POSTGRESQL
def test_versions_are_followed_again(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "RETRY_S", 0.05)
    base = tiny_base(tmp_path / "base")
    settings = settings_for(engine, base, tmp_path)
    serving = Serving(settings)
    swapper = Swapper(engine, settings, serving)
    with without(engine, "alias"):
        swapper.start()
        eventually(lambda: "cannot be loaded" in serving.waits_for)
    eventually(lambda: serving.ready)
    hears("swap_not_looked_for", engine, "promotion")
    assert all(thread.is_alive() for thread in swapper._threads)
    swapper.stop()
    serving.close(0)


@ON_POSTGRESQL
def test_runs_are_looked_for_again(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "POLL_S", 0.05)
    conductor = Conductor(engine, settings_for(engine, tmp_path, tmp_path), "a")
    conductor.start()
    for _ in range(2):
        hears("conductor_failed", engine, str(TrainingRun.__tablename__))
    conductor.stop()


@ON_POSTGRESQL
def test_the_lease_of_a_run_is_renewed_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TrainingRun(folder="runs/1", requested_by="Ada", reason="test")
    with session(engine) as opened:
        opened.add(run)
    wait = threading.Event.wait

    def shorter(event: threading.Event, timeout_s: float | None = None) -> bool:
        return wait(event, 0.05 if timeout_s == conducting.LEASE_S / 3 else timeout_s)

    monkeypatch.setattr(threading.Event, "wait", shorter)

    def until(look: Callable[[TrainingRun], bool]) -> None:
        def holds() -> bool:
            with session(engine) as opened:
                return look(opened.get_one(TrainingRun, run.id))

        eventually(holds)

    with conducting._Lease(engine, run.id, "a") as lease:
        hears("lease_not_renewed", engine, str(TrainingRun.__tablename__))
        with session(engine) as opened:
            known = opened.get_one(TrainingRun, run.id).lease_expires_at
        until(lambda row: row.lease_expires_at != known)
        assert not lease.lost.is_set()
