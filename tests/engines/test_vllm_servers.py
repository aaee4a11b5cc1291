"""Several vLLM servers that fail as servers do: versions on all or none, and no wrong answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import rlhf_engine
from rlhf_engine.errors import (
    BasePolicyError,
    EngineError,
    GenerationError,
    PolicyVersionError,
    QueueFullError,
)
from service import vllm_servers
from service.errors import SettingsError
from service.settings import VllmSettings, load_settings
from service.vllm_engine import VllmEngine
from service.vllm_server import ServerUnusableError
from tests.engines.listening import LONG, SAMPLED, WAIT_S, answer, ask
from tests.engines.stand_in import Faults, StandIn, standing_in
from tests.engines.stored import Stored
from tests.journeys.server import eventually
from tests.tiny import tiny_base

Make = Callable[..., VllmEngine]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    root = tmp_path_factory.mktemp("stored")
    return Stored(root, tiny_base(root / "base"))


@pytest.fixture
def servers(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StandIn, StandIn]]:
    monkeypatch.setattr(vllm_servers, "RETRY_S", 0.1)
    with standing_in(stored.base) as first, standing_in(stored.base) as second:
        yield first, second


@pytest.fixture
def make(stored: Stored) -> Iterator[Make]:
    """Engines over servers, not started; stopped when the test ends."""
    with ExitStack() as stack:

        def made(*servers: StandIn, **more: Any) -> VllmEngine:
            settings = VllmSettings(urls=tuple(server.url for server in servers), **more)
            engine = VllmEngine(stored.base, settings, 4)
            stack.callback(engine.stop)
            return engine

        yield made


@pytest.fixture
def engine(make: Make, servers: tuple[StandIn, StandIn], stored: Stored) -> VllmEngine:
    engine = make(*servers)
    engine.start()
    for version in (stored.zero, stored.one):
        engine.load(version)
    return engine


def failure(engine: VllmEngine, handle: str, **more: Any) -> EngineError:
    error = ask(engine, handle, **more).wait().error
    assert error is not None
    return error


def test_a_version_is_on_every_server_under_its_own_id(
    engine: VllmEngine, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    engine.load(stored.two)
    names = {stored.zero.id, stored.one.id, stored.two.id}
    assert [set(server.adapters) for server in servers] == [names, names]
    engine.retire(stored.two.id)
    assert eventually(lambda: all(set(s.adapters) == names - {stored.two.id} for s in servers))


@pytest.mark.parametrize("failing", [0, 1])
def test_a_version_that_one_server_refuses_is_on_none(
    engine: VllmEngine, servers: tuple[StandIn, StandIn], stored: Stored, failing: int
) -> None:
    servers[failing].faults = Faults(load=500)
    with pytest.raises(PolicyVersionError, match="the adapter cannot be read"):
        engine.load(stored.two)
    assert engine.loaded() == {stored.zero.id, stored.one.id}
    assert [set(server.adapters) for server in servers] == [engine.loaded()] * 2
    servers[failing].faults = Faults()
    engine.load(stored.two)
    assert answer(engine, stored.two.id)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_says_nothing_about_a_version(
    engine: VllmEngine, servers: tuple[StandIn, StandIn], stored: Stored, status: int
) -> None:
    for server in servers:
        server.faults = Faults(ask=status)
    with pytest.raises(ServerUnusableError, match="no vLLM server can be reached"):
        engine.load(stored.two)
    assert engine.loaded() == {stored.zero.id, stored.one.id}
    servers[0].faults = Faults()
    eventually(lambda: engine.stats().ready)
    engine.load(stored.two)
    assert answer(engine, stored.two.id)
    servers[1].faults = Faults()
    eventually(lambda: len(engine._servers.up) == 2)
    assert set(servers[1].adapters) == engine.loaded()


def test_there_are_as_many_versions_as_slots(
    make: Make, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    engine = make(servers[0], max_loras=3)
    engine.start()
    for version in (stored.zero, stored.one, stored.two):
        engine.load(version)
    other = stored.three
    with pytest.raises(PolicyVersionError, match=r"3 versions are loaded, as many as vllm\.max_l"):
        engine.load(other)
    assert engine.retire(stored.one.id)
    assert engine.load(other) == other.id


def test_too_few_slots_on_a_server_stop_the_start(make: Make, stored: Stored) -> None:
    with standing_in(stored.base, max_loras=3) as server:
        with pytest.raises(BasePolicyError, match="start it with --max-loras 4"):
            make(server).start()
        make(server, max_loras=3).start()


def test_another_base_policy_stops_the_start(make: Make, servers: tuple[StandIn, StandIn]) -> None:
    with pytest.raises(BasePolicyError, match="serves base, not 'other'"):
        make(servers[0], model="other").start()
    servers[0].faults = Faults(splits=True)
    with pytest.raises(BasePolicyError, match="other tokens than the base policy"):
        make(servers[0]).start()


def test_an_answer_of_another_version_is_not_used(
    engine: VllmEngine, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    for server in servers:
        server.faults = Faults(answer_as="base")
    listener = ask(engine, stored.one.id).wait()
    assert isinstance(listener.error, GenerationError)
    assert f"was asked for '{stored.one.id}' and answered as 'base'" in str(listener.error)
    assert listener.tokens == {}
    for server in servers:
        server.faults = Faults()
    assert eventually(lambda: engine.stats().ready)
    assert answer(engine, stored.one.id)


def test_a_server_that_cannot_answer_is_replaced_before_the_first_token(
    engine: VllmEngine, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    alone = answer(engine, stored.one.id)
    for status in (500, 503, 429, 404):
        servers[0].faults = Faults(ask=status)
        assert [answer(engine, stored.one.id) for _ in range(2)] == [alone, alone]


def test_servers_that_are_busy_say_so(
    engine: VllmEngine, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    for server in servers:
        server.faults = Faults(ask=503)
    assert isinstance(failure(engine, stored.one.id), QueueFullError)
    for server in servers:
        server.faults = Faults()
    assert answer(engine, stored.one.id)


def test_a_stream_that_breaks_off_fails_its_job_once(
    engine: VllmEngine, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    for server in servers:
        server.faults = Faults(break_after=3)
    listener = ask(engine, stored.one.id, settings=LONG).wait()
    assert isinstance(listener.error, GenerationError)
    assert "broke off" in str(listener.error)
    assert len(listener.tokens[0]) == 3
    assert listener.answers == {}
    assert listener.nothing_more()


def test_a_server_that_is_down_is_left_out_and_comes_back_with_every_version(
    engine: VllmEngine, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    alone = answer(engine, stored.one.id)
    servers[0].stop()
    assert servers[0].adapters == {}
    assert [answer(engine, stored.one.id) for _ in range(3)] == [alone] * 3
    engine.load(stored.two)
    assert engine.stats().ready
    servers[0].start()
    assert eventually(lambda: len(engine._servers.up) == 2)
    assert set(servers[0].adapters) == engine.loaded()
    servers[1].faults = Faults(ask=500)
    assert answer(engine, stored.one.id) == alone


def test_without_a_server_the_engine_is_not_ready(
    engine: VllmEngine, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    for server in servers:
        server.faults.pause_s = 0.1
    running = ask(engine, stored.one.id, settings=LONG)
    assert running.first_token.wait(WAIT_S)
    for server in servers:
        server.stop()
        server.faults.pause_s = 0.0
    assert isinstance(running.wait().error, GenerationError)
    assert eventually(lambda: not engine.stats().ready)
    with pytest.raises(GenerationError, match="no vLLM server can be reached"):
        ask(engine, stored.one.id)
    with pytest.raises(GenerationError, match="no vLLM server can be reached"):
        engine.load(stored.two)
    for server in servers:
        server.start()
    assert eventually(lambda: engine.stats().ready)
    assert answer(engine, stored.one.id)


def test_no_server_at_the_start_is_an_error_and_one_of_two_is_enough(
    make: Make, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    servers[1].stop()
    with pytest.raises(GenerationError, match="cannot be used"):
        make(servers[1]).start()
    engine = make(*servers)
    engine.start()
    engine.load(stored.zero)
    assert answer(engine, stored.zero.id)
    servers[1].start()


def test_a_cancelled_answer_ends_on_the_server(
    engine: VllmEngine, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    listener = ask(engine, stored.one.id, settings=LONG)
    assert listener.first_token.wait(WAIT_S)
    assert sum(server.answering for server in servers) == 1
    listener.job.cancel()
    assert eventually(lambda: sum(server.answering for server in servers) == 0, timeout_s=5)


def test_questions_are_shared_out(
    engine: VllmEngine, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    before = [server.asked for server in servers]
    running = [ask(engine, stored.one.id, settings=LONG) for _ in range(4)]
    for listener in running:
        assert listener.first_token.wait(WAIT_S)
    assert [server.asked - count for server, count in zip(servers, before, strict=True)] == [2, 2]
    for listener in running:
        listener.job.cancel()


def test_a_service_that_comes_back_finds_its_versions(
    make: Make, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    for _ in range(2):
        engine = make(*servers)
        engine.start()
        assert engine.load(stored.one) == stored.one.id
        assert answer(engine, stored.one.id)
        engine.stop()
    servers[0].adapters[stored.one.id] = "/somewhere/else"
    engine = make(*servers)
    engine.start()
    with pytest.raises(PolicyVersionError, match="already been loaded"):
        engine.load(stored.one)


def test_servers_may_see_the_versions_at_another_path(
    make: Make, servers: tuple[StandIn, StandIn], stored: Stored, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.symlink_to(stored.policies)
    engine = make(*servers, policies_path=str(shared))
    engine.start()
    engine.load(stored.one)
    assert servers[0].adapters == {stored.one.id: str(shared / stored.one.id)}
    assert answer(engine, stored.one.id, settings=SAMPLED)


def test_the_key_is_sent_and_never_shown(
    make: Make, stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "k-0123456789"
    (tmp_path / "key").write_text(f"{key}\n")
    with standing_in(stored.base, api_key=key) as server:
        with pytest.raises(GenerationError, match=r"set vllm\.api_key"):
            make(server, api_key="wrong-one").start()
        for more in ({"api_key": key}, {"api_key_file": tmp_path / "key"}):
            engine = make(server, **more)
            engine.start()
            engine.load(stored.one)
            assert answer(engine, stored.one.id)
            assert key not in repr(engine._settings)
            engine.stop()
    told = capsys.readouterr()
    assert key not in told.out + told.err
    assert "wrong-one" not in told.out + told.err


@pytest.mark.parametrize("url", ["gpu-1:8000", "ftp://gpu-1", "http://me:secret@gpu-1"])
def test_an_address_that_cannot_be_used_stops_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match=r"vllm\.urls"):
        load_settings(vllm={"urls": [url]})


def test_version_0_is_an_adapter_that_changes_nothing(
    engine: VllmEngine, servers: tuple[StandIn, StandIn], stored: Stored
) -> None:
    for server in servers:
        assert server.adapters[stored.zero.id].endswith("-idle")
        server.faults = Faults(answer_as=stored.zero.id)
    found = answer(engine, stored.zero.id, settings=SAMPLED)
    torch_engine = rlhf_engine.TorchEngine(stored.base, dtype="float32", threads=1)
    torch_engine.start()
    torch_engine.load(stored.zero)
    assert answer(torch_engine, stored.zero.id, settings=SAMPLED).token_ids == found.token_ids
    torch_engine.stop()
