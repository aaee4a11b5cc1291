"""What a swap does where the engine, or another server, gets in its way."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import rlhf_engine
from rlhf_engine.answer_events import EngineStats, Event, Failed
from rlhf_engine.errors import EngineError, GenerationError, PolicyVersionError, QueueFullError
from service import policies, swap
from service.database import migrate, open_database, session
from service.errors import PromotionError
from service.serving import NotReadyError, Serving
from service.settings import Settings, VllmSettings
from service.swap import Swapper
from service.tables import Promotion
from service.vllm_server import ServerUnusableError
from tests.journeys.conftest import settings_for
from tests.journeys.server import eventually
from tests.tiny import tiny_base
from tests.versions import register, store_version


class TroubledEngine:
    """The built-in engine with troubles: `full` takes no question, `failing` versions answer with
    that error, `held` questions wait for `fail_held`, and `end` ends it as a killed process."""

    def __init__(self, base: Path) -> None:
        self._engine = rlhf_engine.TorchEngine(base, "float32", threads=1)
        self._ended = False
        self.full = False
        self.failing: dict[str, EngineError] = {}
        self.held: dict[str, list[Callable[[Event], None]]] = {}
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(
        self, handle: str, prompt: Any, seeds: Any, settings: Any, on_event: Any, **more: Any
    ) -> Any:
        self.asked.append(handle)
        if self.full:
            raise QueueFullError("32 questions wait already")
        if handle in self.held:
            self.held[handle].append(on_event)
            return None
        if handle in self.failing:
            on_event(Failed(self.failing[handle]))
            return None
        return self._engine.submit(handle, prompt, seeds, settings, on_event, **more)

    def fail_held(self, handle: str, error: EngineError) -> None:
        for on_event in self.held.pop(handle):
            on_event(Failed(error))

    def end(self) -> None:
        self._engine.stop()
        for version_id in self._engine.loaded():
            self._engine.retire(version_id)
        self._ended = True

    def stats(self) -> EngineStats:
        stats = self._engine.stats()
        return replace(stats, ready=False, alive=True, lost=True) if self._ended else stats


class Server:
    """A service without its web part, and what another process does to its database."""

    def __init__(self, home: Path, base: Path, **answers: Any) -> None:
        self.base, self.home = base, home
        self.database = open_database(f"sqlite:///{home}/heed.db")
        migrate(self.database)
        self.settings: Settings = settings_for(self.database, base, home, answers=answers)
        self.engines: list[TroubledEngine] = []
        self.serving = Serving(self.settings, self._made)
        self.swapper = Swapper(self.database, self.settings, self.serving)

    def _made(self, base: Path, _settings: Settings) -> TroubledEngine:
        self.engines.append(TroubledEngine(base))
        return self.engines[-1]

    @property
    def engine(self) -> TroubledEngine:
        return self.engines[-1]

    def start(self) -> None:
        self.swapper.start()
        eventually(lambda: self.serving.ready)

    def stop(self) -> None:
        self.swapper.stop()
        self.serving.close(0)
        self.database.dispose()

    def stored(self, seed: int) -> str:
        """A version that is registered, and nothing more."""
        adapters = self.home / "adapters"
        folder = store_version(self.base, self.settings.policies, adapters, seed)
        with session(self.database) as opened:
            return register(opened, folder).id

    def candidate(self, seed: int) -> str:
        version_id = self.stored(seed)
        with session(self.database) as opened:
            policies.set_candidate(opened, version_id, "Ada")
        return version_id

    def requested(self, version_id: str) -> str:
        with session(self.database) as opened:
            return policies.request_promotion(opened, version_id, "Ada", "a test").id

    def moved_elsewhere(self, version_id: str) -> None:
        """Another process asks for a promotion and carries it out."""
        with session(self.database) as opened:
            promotion = policies.request_promotion(opened, version_id, "Ada", "a test")
            policies.move_alias(opened, promotion)

    def promotion(self, promotion_id: str) -> Promotion:
        with session(self.database) as opened:
            return opened.get_one(Promotion, promotion_id)

    def ended(self, promotion_id: str) -> Promotion:
        def look() -> Promotion | None:
            row = self.promotion(promotion_id)
            return None if row.state == "requested" else row

        found: Promotion = eventually(look)
        return found

    def promote(self, version_id: str) -> None:
        assert self.ended(self.requested(version_id)).state == "done"
        eventually(lambda: self.serving.live_id == version_id)

    def waits_as_candidate(self, version_id: str) -> bool:
        with session(self.database) as opened:
            found = policies.aliased(opened, "candidate")
        return found is not None and found.id == version_id


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def server(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(swap, "RETRY_S", 0.1)
    made = Server(tmp_path, base)
    made.start()
    yield made
    made.stop()


BUSY = QueueFullError("the vLLM server is busy")


@pytest.mark.parametrize("trouble", ["full", "busy", "ended"])
def test_a_promotion_waits_for_an_engine_that_cannot_do_it_now(
    server: Server, trouble: str
) -> None:
    version_id = server.stored(1)
    broken = server.engine
    broken.full = trouble == "full"
    broken.failing = {version_id: BUSY} if trouble == "busy" else {}
    broken.held = {version_id: []} if trouble == "ended" else {}
    asked = server.requested(version_id)
    if trouble == "ended":
        eventually(lambda: broken.held[version_id])
        broken.end()
        broken.fail_held(version_id, GenerationError("the engine's process ended"))
    else:
        eventually(lambda: broken.asked.count(version_id) > 2)
        assert server.promotion(asked).state == "requested"
        broken.full, broken.failing = False, {}
    assert server.ended(asked).state == "done"
    eventually(lambda: server.serving.live_id == version_id)


def test_a_candidate_stays_one_while_its_promotion_waits(server: Server) -> None:
    server.engine.full = True
    version_id = server.candidate(1)
    asked = server.requested(version_id)
    eventually(lambda: server.engine.asked.count(version_id) > 2)
    assert server.waits_as_candidate(version_id)
    server.engine.full = False
    assert server.ended(asked).state == "done"


def test_a_promotion_that_waited_too_long_is_refused_with_what_kept_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "PATIENCE_S", 0.3)
    server.engine.full = True
    version_id = server.candidate(1)
    refused = server.ended(server.requested(version_id))
    assert refused.state == "refused"
    assert "could not be tried" in str(refused.error)
    assert "32 questions wait already" in str(refused.error)
    assert server.waits_as_candidate(version_id)


@pytest.mark.parametrize("error", [GenerationError("nothing fits"), PolicyVersionError("torn")])
def test_a_version_that_fails_on_a_sound_engine_is_refused_at_once(
    server: Server, error: EngineError
) -> None:
    version_id = server.stored(1)
    server.engine.failing = {version_id: error}
    with session(server.database) as opened:
        policies.set_candidate(opened, version_id, "Ada")
    refused = server.ended(server.requested(version_id))
    assert (refused.state, refused.error) == ("refused", f"version 1: {error}")
    eventually(lambda: not server.waits_as_candidate(version_id))


def test_a_server_that_stops_leaves_the_promotion_it_tries_to_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "STOP_S", 0.1)
    version_id = server.stored(1)
    server.engine.held = {version_id: []}
    asked = server.requested(version_id)
    eventually(lambda: server.engine.held[version_id])
    server.swapper.stop()
    server.serving.close(0)
    server.engine.fail_held(version_id, GenerationError("the engine stopped"))
    for thread in server.swapper._threads:
        thread.join(60)
    assert server.promotion(asked).state == "requested"


def test_what_says_nothing_about_a_version_is_told_apart(tmp_path: Path) -> None:
    serving = Serving(Settings(home=tmp_path, vllm=VllmSettings(urls=("http://gpu-1:8000",))))
    for error in (BUSY, NotReadyError("loading"), ServerUnusableError("away"), OSError("I/O")):
        assert serving.is_passing(error)
    for fault in (PolicyVersionError("torn"), PromotionError("silent"), GenerationError("nan")):
        assert not serving.is_passing(fault)


def test_with_a_damaged_live_version_a_new_engine_serves_the_one_before(server: Server) -> None:
    before = server.serving.live_id
    version_id = server.stored(1)
    server.promote(version_id)
    shutil.rmtree(server.settings.policies / version_id)
    server.engine.end()
    eventually(lambda: server.serving.ready)
    assert server.serving.live_id == before
    assert len(server.engines) == 2
    with session(server.database) as opened:
        back = policies.rollback(opened, "Ada").id
    assert server.ended(back).state == "done"
    with session(server.database) as opened:
        assert policies.live_version(opened).id == before


def test_a_new_engine_serves_the_version_that_was_live_without_asking_it(server: Server) -> None:
    version_id = server.stored(1)
    server.promote(version_id)
    server.engine.end()
    eventually(lambda: server.serving.ready)
    eventually(lambda: "previous" in server.serving.aliases())
    assert server.serving.live_id == version_id
    assert (len(server.engines), server.engine.asked) == (2, [])


def test_a_version_made_live_elsewhere_is_used_once_it_has_been_tried_here(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "UNUSABLE_S", 1.0)
    before, version_id = server.serving.live_id, server.stored(1)
    server.engine.failing = {version_id: GenerationError("it draws nothing")}
    with capture_logs() as said:
        server.moved_elsewhere(version_id)
        eventually(lambda: any(line["event"] == "version_not_usable" for line in said))
    (told,) = (line for line in said if line["event"] == "version_not_usable")
    assert (told["version"], told["error"]) == (version_id, "it draws nothing")
    assert "tries again in 1 s" in told["next"]
    assert server.serving.live_id == before
    server.engine.failing = {}
    eventually(lambda: server.serving.live_id == version_id)


def test_a_version_that_fails_here_while_another_server_promotes_it_is_not_used(
    server: Server,
) -> None:
    before, version_id = server.serving.live_id, server.stored(1)
    server.engine.held = {version_id: []}
    with capture_logs() as said:
        asked = server.requested(version_id)
        eventually(lambda: server.engine.held[version_id])
        server.moved_elsewhere(version_id)
        server.engine.failing = {version_id: GenerationError("it draws nothing")}
        server.engine.fail_held(version_id, GenerationError("it draws nothing"))
        eventually(lambda: any(line["event"] == "version_not_usable" for line in said))
    assert server.promotion(asked).state == "done"
    (told,) = (line for line in said if line["event"] == "promotion_decided_elsewhere")
    assert told["error"] == "version 1: it draws nothing"
    server.swapper._follow()
    assert server.serving.live_id == before


def test_a_rollback_elsewhere_asks_nothing_though_another_version_is_being_tried(
    server: Server,
) -> None:
    before = server.serving.live_id
    assert before is not None
    server.promote(server.stored(1))
    other = server.stored(2)
    server.engine.held = {other: []}
    server.requested(other)
    eventually(lambda: server.engine.held[other])
    server.engine.asked.clear()
    server.moved_elsewhere(before)
    eventually(lambda: server.serving.live_id == before, timeout_s=5)
    assert server.engine.asked == []
    server.engine.fail_held(other, GenerationError("enough"))


def test_a_rollback_to_a_version_that_failed_here_is_refused(server: Server) -> None:
    first, second = server.stored(1), server.stored(2)
    server.engine.failing = {first: GenerationError("it draws nothing")}
    server.moved_elsewhere(first)
    server.moved_elsewhere(second)
    eventually(lambda: server.serving.live_id == second)
    eventually(lambda: first in server.serving.loaded())
    assert "previous" not in server.serving.aliases()
    with session(server.database) as opened:
        back = policies.rollback(opened, "Ada").id
    assert server.ended(back).state == "refused"
    assert server.serving.live_id == second


def test_an_api_client_that_asks_for_several_answers_meets_the_canary(
    tmp_path: Path, base: Path
) -> None:
    made = Server(tmp_path, base, canary_share=1.0)
    made.start()
    version_id = made.candidate(1)
    eventually(lambda: "candidate" in made.serving.aliases())
    leases = made.serving.lease_answers(3, None, "a conversation")
    compared = made.serving.lease_answers(2, None, "a conversation", compared=True)
    made.stop()
    assert {(lease.version_id, lease.canary) for lease in leases} == {(version_id, True)}
    assert not any(lease.canary for lease in compared)
