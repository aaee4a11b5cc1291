"""Journey 5 for operators: a canary, an exact version, a replay, and a rollback from memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine
from sqlmodel import select

from rlhf_engine.errors import PolicyVersionError
from service import policies
from service.database import session
from service.errors import ConflictError, NotFoundError
from service.replay import replay
from service.settings import Settings
from service.tables import Alias, Candidate, PolicyVersion, Turn
from tests.journeys.server import Served, Visitor, eventually, serving
from tests.versions import register, store_version

QUESTION = "How many days of annual leave do I have?"


def stored_version(served: Served, tmp_path: Path, seed: int, **more: Any) -> PolicyVersion:
    settings = served.settings
    folder = store_version(
        Path(settings.base_policy), settings.policies, tmp_path / "adapters", seed, **more
    )
    with session(served.engine) as opened:
        return register(opened, folder)


def candidate(served: Served, tmp_path: Path, seed: int = 1, **more: Any) -> PolicyVersion:
    version = stored_version(served, tmp_path, seed, **more)
    with session(served.engine) as opened:
        policies.set_candidate(opened, version.id, "Ada")
    return version


def promote(visitor: Visitor, version: PolicyVersion) -> None:
    visitor.post(f"/api/policies/{version.id}/promote", json={}).raise_for_status()
    eventually(lambda: live_number(visitor) == version.number)


def live_number(visitor: Visitor) -> int:
    return int(visitor.get("/health/ready").json()["version"])


def is_candidate(visitor: Visitor, version: PolicyVersion) -> bool:
    rows = visitor.get("/api/policies").json()["versions"]
    return any(row["id"] == version.id and row["loaded"] for row in rows)


def answers(engine: Engine) -> list[Candidate]:
    with session(engine) as opened:
        return list(opened.exec(select(Candidate)))


@pytest.mark.usefixtures("handbook")
def test_a_canary_answers_its_share_of_conversations_and_stays_with_each(
    make_settings: Callable[..., Settings], engine: Engine, tmp_path: Path
) -> None:
    with serving(make_settings(answers={"canary_share": 0.5}), engine) as served:
        visitor = served.visitor()
        version = candidate(served, tmp_path)
        eventually(lambda: visitor.ask(QUESTION).turn["version"] == version.number)
        chats = [visitor.ask(QUESTION).turn for _ in range(12)]
        for chat in chats:
            more = visitor.ask(QUESTION, conversation_id=chat["conversation_id"])
            assert more.turn["version"] == chat["version"]
        assert {chat["version"] for chat in chats} == {0, version.number}
        listed = visitor.get("/api/policies").json()["versions"]
    rows = answers(engine)
    assert {row.canary for row in rows if row.version_id == version.id} == {True}
    assert {row.canary for row in rows if row.version_id != version.id} == {False}
    (shown,) = (row for row in listed if row["id"] == version.id)
    assert shown["alias"] == "candidate"
    assert shown["canary_answers"] == sum(row.canary for row in rows)


@pytest.mark.usefixtures("handbook")
def test_the_second_of_two_answers_may_be_the_candidates(
    make_settings: Callable[..., Settings], engine: Engine, tmp_path: Path
) -> None:
    with serving(make_settings(answers={"canary_in_comparisons": True}), engine) as served:
        visitor = served.visitor()
        version = candidate(served, tmp_path)

        def canaries() -> list[Candidate]:
            stream = visitor.ask(QUESTION, compare=True)
            assert stream.last == "done"
            with session(engine) as opened:
                query = select(Candidate).where(Candidate.turn_id == stream.turn["turn_id"])
                rows = list(opened.exec(query))
            return rows if any(row.canary for row in rows) else []

        pair = eventually(canaries)
        assert {row.canary: row.version_id == version.id for row in pair} == {
            True: True,
            False: False,
        }
        assert visitor.ask(QUESTION).turn["version"] == 0
        made_again = replay(engine, served.settings, pair[0].turn_id)
    assert [one.matched for one in made_again] == [True, True]


@pytest.mark.usefixtures("handbook")
def test_a_candidate_that_cannot_be_used_is_asked_nothing(
    make_settings: Callable[..., Settings], engine: Engine, tmp_path: Path
) -> None:
    with serving(make_settings(answers={"canary_share": 1.0}), engine) as served:
        broken = candidate(served, tmp_path, value=float("nan"))
        visitor = served.visitor()
        for _ in range(10):
            assert visitor.ask(QUESTION).turn["version"] == 0
        assert not is_candidate(visitor, broken)
        sound = candidate(served, tmp_path, seed=2)
        eventually(lambda: visitor.ask(QUESTION).turn["version"] == sound.number)


def test_a_candidate_that_goes_live_is_one_no_more(served: Served, tmp_path: Path) -> None:
    visitor, version = served.visitor(), candidate(served, tmp_path)
    eventually(lambda: is_candidate(visitor, version))
    promote(visitor, version)
    with session(served.engine) as opened:
        assert policies.aliased(opened, "candidate") is None
        with pytest.raises(ConflictError, match="is live already"):
            policies.set_candidate(opened, version.id, "Ada")


def test_a_rollback_takes_a_second_and_reads_no_policy(served: Served, tmp_path: Path) -> None:
    visitor, version = served.visitor(), stored_version(served, tmp_path, 1)
    promote(visitor, version)
    served.settings.policies.rename(tmp_path / "moved")
    began = time.monotonic()
    visitor.post("/api/policies/rollback", json={}).raise_for_status()
    eventually(lambda: live_number(visitor) == 0)
    assert time.monotonic() - began < 1.0
    assert visitor.ask(QUESTION).turn["version"] == 0


def test_a_rollback_by_another_process_takes_a_second_too(served: Served, tmp_path: Path) -> None:
    visitor, version = served.visitor(), stored_version(served, tmp_path, 1)
    promote(visitor, version)
    served.settings.policies.rename(tmp_path / "moved")
    with session(served.engine) as opened:
        policies.rollback(opened, "Ada")
    began = time.monotonic()
    eventually(lambda: live_number(visitor) == 0)
    assert time.monotonic() - began < 1.0


@pytest.mark.usefixtures("handbook")
def test_answers_given_together_are_made_again_token_for_token(
    make_settings: Callable[..., Settings], engine: Engine, tmp_path: Path
) -> None:
    with serving(make_settings(), engine) as served, ThreadPoolExecutor(4) as pool:
        visitor = served.visitor()
        futures = [pool.submit(served.visitor().ask, QUESTION, compare=at < 2) for at in range(4)]
        promote(visitor, stored_version(served, tmp_path, 1))
        futures += [pool.submit(served.visitor().ask, QUESTION, compare=at < 2) for at in range(4)]
        assert {future.result(60).last for future in futures} == {"done"}
        settings = served.settings
    rows = answers(engine)
    assert len(rows) == 12
    assert len({row.version_id for row in rows}) == 2
    for row in rows:
        (again,) = replay(engine, settings, f"chatcmpl-{row.id}")
        assert again.matched
        assert len(again.made) == len(row.token_ids) > 0


@pytest.mark.usefixtures("handbook")
def test_a_replay_finds_the_first_token_that_differs_and_what_is_missing(
    make_settings: Callable[..., Settings], engine: Engine
) -> None:
    with serving(make_settings(), engine) as served:
        served.visitor().ask(QUESTION)
        settings = served.settings
    (row,) = answers(engine)
    copies: dict[str, dict[str, Any]] = {
        "other": {"token_ids": [*row.token_ids[:3], row.token_ids[3] + 1, *row.token_ids[4:]]},
        "ended": {"token_ids": row.token_ids[:5], "finish_reason": "cancelled"},
        "old": {"engine": {}},
        "foreign": {"engine": {**row.engine, "engine": "OtherEngine"}},
    }
    with session(engine) as opened:
        turn = opened.exec(select(Turn)).one()
        for name, changes in copies.items():
            values = {**row.model_dump(), "id": name, "turn_id": name, **changes}
            opened.add(Turn(**{**turn.model_dump(), "id": name}))
            opened.flush()
            opened.add(Candidate(**values))
    (other,) = replay(engine, settings, "other")
    assert (other.matched, other.differs_at) == (False, 3)
    (ended,) = replay(engine, settings, "ended")
    assert (ended.matched, ended.cut_short, len(ended.made)) == (True, True, 5)
    with pytest.raises(ConflictError, match="earlier Heed"):
        replay(engine, settings, "old")
    with pytest.raises(ConflictError, match="made by OtherEngine"):
        replay(engine, settings, "foreign")
    with pytest.raises(NotFoundError, match="no answer 'nothing'"):
        replay(engine, settings, "nothing")
    settings.policies.rename(settings.home / "moved")
    with pytest.raises(PolicyVersionError, match="is gone"):
        replay(engine, settings, row.id)


def test_the_candidate_is_moved_by_compare_and_swap(served: Served, tmp_path: Path) -> None:
    first, second = (stored_version(served, tmp_path, seed) for seed in (1, 2))
    with session(served.engine) as opened:
        policies.set_candidate(opened, first.id, "Ada")
        policies.set_candidate(opened, second.id, "Ada")
        assert opened.get_one(Alias, "candidate").generation == 2
        assert not policies.clear_candidate(opened, first.id, "a test")
        assert policies.clear_candidate(opened, second.id, "a test")
        assert policies.aliased(opened, "candidate") is None


def test_no_lease_outlives_a_turn_that_was_refused_or_left(served: Served, tmp_path: Path) -> None:
    visitor = served.visitor()
    body = {"model": "nothing", "messages": [{"role": "user", "content": QUESTION}]}
    assert visitor.post("/v1/chat/completions", json=body).status_code in (401, 404)
    with pytest.raises(httpx.HTTPStatusError):
        visitor.ask(QUESTION, conversation_id="somebody else's")
    for _ in visitor.events(QUESTION, compare=True):
        break
    numbers = [stored_version(served, tmp_path, seed) for seed in (1, 2)]
    for version in numbers:
        promote(visitor, version)

    def loaded() -> set[tuple[int, int]]:
        rows = visitor.get("/api/policies").json()["versions"]
        return {(row["number"], row["leases"]) for row in rows if row["loaded"]}

    eventually(lambda: loaded() == {(1, 0), (2, 0)})
