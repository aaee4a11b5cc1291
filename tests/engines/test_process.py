"""What is particular to the engine in a process of its own: that it may end by itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rlhf_engine.errors import BasePolicyError, GenerationError
from rlhf_engine.serving_engine import ServingEngine
from service.database import migrate, open_database
from service.process_engine import EngineProcesses, ProcessEngine
from service.settings import Settings
from tests.engines.listening import LONG, WAIT_S, ask
from tests.engines.stored import Stored
from tests.journeys.conftest import settings_for
from tests.journeys.server import eventually, serving
from tests.tiny import tiny_base


@pytest.fixture
def here(tmp_path: Path) -> Stored:
    return Stored(tmp_path, tiny_base(tmp_path / "base"))


@pytest.fixture
def process(here: Stored) -> Iterator[ProcessEngine]:
    made = ProcessEngine(here.base, "float32", threads=1, max_rows=2)
    made.start()
    yield made
    made.stop()


def kill(engine: ServingEngine) -> None:
    assert isinstance(engine, ProcessEngine)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)


def test_a_killed_process_fails_its_jobs_and_says_so(process: ProcessEngine, here: Stored) -> None:
    process.load(here.one)
    running = [ask(process, here.one.id, settings=LONG, seeds=(1, 2)) for _ in range(2)]
    assert running[0].first_token.wait(WAIT_S)
    kill(process)
    for listener in running:
        assert isinstance(listener.wait(rows=2).error, GenerationError)
    stats = process.stats()
    assert (stats.lost, stats.ready, stats.alive) == (True, False, True)
    assert (stats.active, stats.waiting, sum(stats.using.values())) == (0, 0, 0)
    assert process.loaded() == set()
    with pytest.raises(GenerationError, match="not running"):
        process.load(here.one)
    process.stop()
    assert not process.stats().alive


def test_a_base_policy_that_is_none_is_refused(tmp_path: Path) -> None:
    engine = ProcessEngine(tmp_path / "missing", "float32", threads=1)
    with pytest.raises(BasePolicyError, match="is no folder"):
        engine.start()
    assert not engine.stats().alive


def test_it_ends_with_the_engine(here: Stored) -> None:
    engine = ProcessEngine(here.base, "float32", threads=1)
    engine.start()
    assert engine.pid is not None
    process = psutil.Process(engine.pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)  # the server alone decides when answers end
    engine.load(here.one)
    engine.stop()
    assert not process.is_running()


def test_a_server_whose_engine_is_killed_answers_again(tmp_path: Path, here: Stored) -> None:
    database = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(database)
    made: list[ProcessEngine] = []

    def remembered(base: Path, settings: Settings) -> ProcessEngine:
        made.append(EngineProcesses(settings)(base, settings))
        return made[-1]

    settings = settings_for(database, here.base, tmp_path / "home")
    with serving(settings, database, engine_factory=remembered) as served:
        visitor = served.visitor()
        first = visitor.ask("Who signs my travel expenses?")
        kill(made[0])
        assert eventually(lambda: visitor.get("/health/ready").status_code == 503)
        assert visitor.get("/health/live").status_code == 200
        assert eventually(lambda: visitor.get("/health/ready").status_code == 200)
        again = visitor.ask("Who signs my travel expenses?")
    database.dispose()
    assert (first.last, again.last) == ("done", "done")
    assert len(made) == 2
