"""Journey 5: a version goes live, fails to, and goes back, under answers that are running."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine
from sqlmodel import col, select

import rlhf_engine
from rlhf_engine.answer_events import Ended, Event, Failed
from rlhf_engine.records import from_json
from service import policies
from service.database import session
from service.settings import Settings
from service.swap import promote_directly
from service.tables import Candidate, PolicyVersion, Promotion, Turn
from tests.journeys.conftest import ONE_DATABASE
from tests.journeys.server import Served, Stream, Visitor, eventually, serving
from tests.tiny import tiny_base, tiny_tokenizer
from tests.versions import register, store_version

QUESTION = "How many days of annual leave do I have?"
LONG = {"max_new_tokens": 600, "temperature": 0.3}


def candidate_version(served: Served, tmp_path: Path, seed: int, **more: Any) -> PolicyVersion:
    settings = served.settings
    folder = store_version(
        Path(settings.base_policy), settings.policies, tmp_path / "adapters", seed, **more
    )
    with session(served.engine) as opened:
        return register(opened, folder)


def promote(visitor: Visitor, version: PolicyVersion) -> dict[str, Any]:
    """Ask for a promotion and wait for its end."""
    asked = visitor.post(f"/api/policies/{version.id}/promote", json={"evidence": "a test"})
    assert asked.status_code == 202, asked.text
    return ended(visitor, asked.json()["id"])


def ended(visitor: Visitor, promotion_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        rows = visitor.get("/api/policies").json()["promotions"]
        (row,) = (row for row in rows if row["id"] == promotion_id)
        return None if row["state"] == "requested" else row

    row: dict[str, Any] = eventually(look)
    return row


def replayed(settings: Settings, engine: Engine, rows: list[Candidate]) -> list[str]:
    """What each candidate's own version says to the same prompt with the same seed."""
    base = Path(settings.base_policy)
    torch_engine = rlhf_engine.TorchEngine(base, dtype="float32", threads=1)
    torch_engine.start()
    try:
        for version_id in {row.version_id for row in rows}:
            folder = settings.policies / version_id
            torch_engine.load(rlhf_engine.PolicyVersionFolder.open(folder, base))
        return [_replay(torch_engine, engine, row) for row in rows]
    finally:
        torch_engine.stop()


def _replay(torch_engine: Any, engine: Engine, row: Candidate) -> str:
    events: queue.Queue[Event] = queue.Queue()
    with session(engine) as opened:
        prompt = from_json(rlhf_engine.Prompt, opened.get_one(Turn, row.turn_id).prompt)
    settings = from_json(rlhf_engine.SamplingSettings, row.settings)
    torch_engine.submit(row.version_id, prompt, [row.seed], settings, events.put)
    while not isinstance(event := events.get(timeout=60), Ended):
        assert not isinstance(event, Failed), event
    return event.answer.text.replace("\x00", "\ufffd")


@pytest.fixture
def tireless(tmp_path: Path) -> Path:
    """A base policy that never ends an answer by itself at a low temperature: the end of turn is
    as likely as an average token, and those are not drawn."""
    folder = tiny_base(tmp_path / "tireless")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][tiny_tokenizer().eos_token_id] = 0.0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.usefixtures("handbook")
@ONE_DATABASE
def test_a_swap_drops_no_stream_and_mixes_no_versions(
    make_settings: Callable[..., Settings], engine: Engine, tmp_path: Path, tireless: Path
) -> None:
    """Streams that began on the old version end on it with all tokens, new ones use the new."""
    settings = make_settings(base_policy=str(tireless), answers=LONG)
    with serving(settings, engine) as served, ThreadPoolExecutor(8) as pool:
        version = candidate_version(served, tmp_path, seed=1)
        visitor = served.visitor()
        begun = [threading.Event() for _ in range(2)]
        before = [pool.submit(read, served.visitor(), event) for event in begun]
        for event in begun:
            assert event.wait(60)
        done = threading.Event()
        during = pool.submit(read_until, served.visitor(), done)
        promotion = promote(visitor, version)
        after = visitor.ask(QUESTION)
        done.set()
        old = [future.result(60) for future in before]
        between = during.result(60)
    assert promotion["state"] == "done"
    assert [stream.last for stream in [*old, *between, after]] == ["done"] * (
        len(old) + len(between) + 1
    )
    assert {stream.turn["version"] for stream in old} == {0}
    assert after.turn["version"] == after.ends[""]["version"] == 1
    with session(engine) as opened:
        rows = list(opened.exec(select(Candidate).order_by(col(Candidate.created_at))))
    assert len(rows) == len(old) + len(between) + 1
    assert {row.finish_reason for row in rows} <= {"stop", "length"}
    swapped_at = datetime.fromisoformat(promotion["finished_at"])
    old_ids = {stream.ends[""]["candidate_id"] for stream in old}
    kept = [row for row in rows if row.id in old_ids]
    assert [len(row.token_ids) for row in kept] == [LONG["max_new_tokens"]] * len(kept)
    assert all(row.created_at > swapped_at for row in kept)
    texts = {
        end["candidate_id"]: end["text"] for s in [*old, *between, after] for end in s.ends.values()
    }
    assert [texts[row.id] for row in rows] == [row.text for row in rows]
    assert replayed(served.settings, engine, rows) == [row.text for row in rows]


def read(visitor: Visitor, begun: threading.Event) -> Stream:
    stream = Stream()
    for name, data in visitor.events(QUESTION, compare=False):
        stream.take(name, data)
        begun.set()
    return stream


def read_until(visitor: Visitor, done: threading.Event) -> list[Stream]:
    streams = [visitor.ask(QUESTION)]
    while not done.is_set():
        streams.append(visitor.ask(QUESTION))
    return streams


def test_new_questions_use_the_new_version_and_rollback_brings_the_old_one_back(
    served: Served, tmp_path: Path
) -> None:
    visitor = served.visitor()
    version = candidate_version(served, tmp_path, seed=1)
    assert promote(visitor, version)["replaced"] == 0
    assert visitor.ask(QUESTION).turn["version"] == 1
    back = visitor.post("/api/policies/rollback", json={})
    assert back.json()["kind"] == "rollback"
    assert ended(visitor, back.json()["id"])["state"] == "done"
    assert visitor.ask(QUESTION).turn["version"] == 0
    assert httpx.get(f"{served.url}/health/ready").json()["version"] == 0
    aliases = {
        row["number"]: row["alias"] for row in visitor.get("/api/policies").json()["versions"]
    }
    assert aliases == {0: "live", 1: "previous"}


def test_a_version_that_cannot_be_used_is_refused_and_the_live_one_stays(
    served: Served, tmp_path: Path
) -> None:
    visitor = served.visitor()
    broken = {
        "not finite": candidate_version(served, tmp_path, seed=1, value=float("nan")),
        "changed after it was stored": candidate_version(served, tmp_path, seed=2),
        "is no policy version": candidate_version(served, tmp_path, seed=3),
    }
    changed = served.settings.policies / broken["changed after it was stored"].id
    weights = changed / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    (served.settings.policies / broken["is no policy version"].id / "manifest.json").unlink()
    for why, version in broken.items():
        promotion = promote(visitor, version)
        assert promotion["state"] == "refused"
        assert why in promotion["error"]
        assert visitor.ask(QUESTION).turn["version"] == 0
    assert httpx.get(f"{served.url}/health/ready").json()["version"] == 0


def test_versions_that_nobody_needs_leave_memory(served: Served, tmp_path: Path) -> None:
    visitor = served.visitor()
    for seed in (1, 2):
        assert promote(visitor, candidate_version(served, tmp_path, seed))["state"] == "done"

    def loaded() -> set[int]:
        versions = visitor.get("/api/policies").json()["versions"]
        return {version["number"] for version in versions if version["loaded"]}

    eventually(lambda: loaded() == {1, 2})


def test_the_server_follows_an_alias_that_another_process_moved(
    served: Served, tmp_path: Path
) -> None:
    version = candidate_version(served, tmp_path, seed=1)
    with session(served.engine) as opened:
        promotion = policies.request_promotion(opened, version.id, "Ada", "a test")
        policies.move_alias(opened, promotion)
    visitor = served.visitor()
    eventually(lambda: visitor.ask(QUESTION).turn["version"] == 1)


@pytest.fixture
def without_server(
    make_settings: Callable[..., Settings], engine: Engine, base: Path
) -> Iterator[Served]:
    """A database and policies that no server serves."""
    settings = make_settings()
    with session(engine) as opened:
        policies.register_base(opened, settings, base)
    yield Served("", settings, engine)


def test_without_a_server_the_alias_moves_directly(without_server: Served, tmp_path: Path) -> None:
    version = candidate_version(without_server, tmp_path, seed=1)
    with session(without_server.engine) as opened:
        promotion = policies.request_promotion(opened, version.id, "Ada", "a test")
    promote_directly(without_server.engine, without_server.settings, promotion.id)
    with session(without_server.engine) as opened:
        assert policies.live_version(opened).id == version.id
        assert opened.get_one(Promotion, promotion.id).state == "done"


def test_without_a_server_a_damaged_version_is_refused(
    without_server: Served, tmp_path: Path
) -> None:
    version = candidate_version(without_server, tmp_path, seed=1)
    (without_server.settings.policies / version.id / "adapter_config.json").unlink()
    with session(without_server.engine) as opened:
        promotion = policies.request_promotion(opened, version.id, "Ada", "a test")
    promote_directly(without_server.engine, without_server.settings, promotion.id)
    with session(without_server.engine) as opened:
        assert policies.live_version(opened).number == 0
        row = opened.get_one(Promotion, promotion.id)
    assert (row.state, "adapter_config.json" in str(row.error)) == ("refused", True)


@pytest.mark.usefixtures("handbook")
def test_a_start_serves_the_live_version_or_the_best_that_still_loads(
    without_server: Served, tmp_path: Path
) -> None:
    version = candidate_version(without_server, tmp_path, seed=1)
    with session(without_server.engine) as opened:
        promotion = policies.request_promotion(opened, version.id, "Ada", "a test")
    promote_directly(without_server.engine, without_server.settings, promotion.id)
    with serving(without_server.settings, without_server.engine) as served:
        assert served.visitor().ask(QUESTION).turn["version"] == 1
    (without_server.settings.policies / version.id / "adapter_config.json").unlink()
    with serving(without_server.settings, without_server.engine) as served:
        assert served.visitor().ask(QUESTION).turn["version"] == 0
