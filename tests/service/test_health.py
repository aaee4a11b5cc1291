"""Liveness and readiness say what holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx

import rlhf_engine
from rlhf_engine.answer_events import EngineStats
from service.database import migrate, open_database
from service.engine_watch import STALLED_S, engine_trouble, lasting_trouble
from service.serving import Serving
from service.settings import Settings
from tests.journeys.conftest import settings_for
from tests.journeys.server import serving
from tests.tiny import tiny_base

RESTING = EngineStats(True, "float32", 0, 0, 0, 0, 0, 0, {})


def test_an_engine_is_in_trouble_when_it_has_ended_or_moves_no_more() -> None:
    assert engine_trouble(None) is None
    assert engine_trouble(RESTING) is None
    assert engine_trouble(replace(RESTING, round_s=STALLED_S - 1)) is None
    assert "no step" in str(engine_trouble(replace(RESTING, round_s=STALLED_S + 1)))
    assert "has ended" in str(engine_trouble(replace(RESTING, alive=False)))


def test_servers_that_cannot_be_reached_are_no_reason_to_restart_this_one() -> None:
    away = replace(RESTING, ready=False)
    assert "tried again" in str(engine_trouble(away))
    assert lasting_trouble(away) is None
    assert lasting_trouble(replace(away, alive=False)) is not None


def test_a_server_whose_engine_has_ended_is_neither_live_nor_ready(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(database)
    engines: list[rlhf_engine.TorchEngine] = []

    def made(base: Path, _settings: Settings) -> rlhf_engine.TorchEngine:
        engines.append(rlhf_engine.TorchEngine(base, "float32", threads=1))
        return engines[0]

    settings = settings_for(database, tiny_base(tmp_path / "base"), tmp_path)
    with serving(settings, database, engine_factory=made) as served:
        assert httpx.get(f"{served.url}/health/live").json()["status"] == "live"
        engines[0].stop()
        for path, key in (("live", "trouble"), ("ready", "waits_for")):
            response = httpx.get(f"{served.url}/health/{path}")
            assert response.status_code == 503
            assert "engine has ended" in response.json()[key]
        visitor = served.visitor()
        for path, body in (
            ("/api/ask", {"question": "Who?"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Who?"}]}),
        ):
            refused = visitor.post(path, json={"model": "heed", **body} if "v1" in path else body)
            assert refused.status_code == 503
            assert "engine has ended" in refused.text
            assert int(refused.headers["retry-after"]) >= 1
    database.dispose()


def test_a_serving_is_ready_only_while_its_engine_is(tmp_path: Path) -> None:
    class Away:
        """An engine whose servers come and go."""

        now = RESTING

        def start(self) -> None: ...

        def stats(self) -> EngineStats:
            return self.now

    engine = Away()
    serving = Serving(Settings(home=tmp_path), lambda _base, _settings: engine)
    assert (serving.ready, serving.trouble) == (False, "the base policy is still loading")
    serving.open(tmp_path)
    assert not serving.ready
    serving.make_live("v")
    assert (serving.ready, serving.trouble) == (True, None)
    engine.now = replace(RESTING, ready=False)
    assert not serving.ready
    assert "tried again" in str(serving.trouble)
    engine.now = RESTING
    assert serving.ready
