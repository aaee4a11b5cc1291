"""Streams that survive: a lost connection, a refreshed page, a reader who does not read."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine
from sqlmodel import select
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

import rlhf_engine
from service import answering
from service.database import session
from service.settings import Settings
from service.tables import Candidate
from tests.journeys.conftest import ONE_DATABASE
from tests.journeys.server import Served, Visitor, eventually, serving
from tests.tiny import tireless_base

QUESTION = "How many days of annual leave do I have?"
LONG = {"max_new_tokens": 400, "temperature": 0.3}
Told = tuple[int, str, str]


def told(response: httpx.Response) -> Iterator[Told]:
    """Number, kind and data of each event of a stream."""
    waiting = ""
    for text in response.iter_text():
        *blocks, waiting = (waiting + text).split("\n\n")
        for block in blocks:
            number, name, data = (line.split(": ", 1)[1] for line in block.split("\n"))
            yield int(number), name, data


def ask_and_lose(visitor: Visitor, events: int, **more: Any) -> list[Told]:
    """Ask, and lose the connection after so many events."""
    body = {"question": QUESTION, "compare": False, **more}
    with visitor.stream("POST", "/api/ask", json=body) as response:
        assert response.status_code == 200
        taken = []
        for event in told(response):
            taken.append(event)
            if len(taken) == events:
                break
    return taken


def rest(visitor: Visitor, turn_id: str, after: int | None = None) -> list[Told]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with visitor.stream("GET", f"/api/turns/{turn_id}/stream", headers=headers) as response:
        assert response.status_code == 200
        return list(told(response))


def turn_id_of(events: list[Told]) -> str:
    return events[0][2].split('"turn_id":"')[1][:16]


def stored(engine: Engine, turn_id: str) -> list[Candidate]:
    with session(engine) as opened:
        return list(opened.exec(select(Candidate).where(Candidate.turn_id == turn_id)))


@pytest.fixture(scope="session")
def tireless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tireless_base(tmp_path_factory.mktemp("tireless"))


@pytest.fixture
def talkative(
    make_settings: Callable[..., Settings], engine: Engine, tireless: Path, handbook: None
) -> Iterator[Served]:
    """A server whose answers all have 400 tokens."""
    with serving(make_settings(base_policy=str(tireless), answers=LONG), engine) as running:
        yield running


def test_whoever_lost_the_connection_gets_exactly_the_rest(talkative: Served) -> None:
    visitor = talkative.visitor()
    first = ask_and_lose(visitor, 20, compare=True)
    turn_id = turn_id_of(first)
    last = first[-1][0]
    more = rest(visitor, turn_id, last)
    assert [number for number, _, _ in first + more] == list(range(1, len(first + more) + 1))
    names = [name for _, name, _ in more]
    assert (names[-1], names.count("end"), names.count("done")) == ("done", 2, 1)
    assert rest(visitor, turn_id) == first + more
    rows = stored(talkative.engine, turn_id)
    assert len(rows) == 2
    assert all(row.finish_reason == "stop" or len(row.token_ids) == 400 for row in rows)


@ONE_DATABASE
def test_the_number_may_stand_in_the_address_too(talkative: Served) -> None:
    visitor = talkative.visitor()
    first = ask_and_lose(visitor, 3)
    path = f"/api/turns/{turn_id_of(first)}/stream"
    everything = rest(visitor, turn_id_of(first))
    with visitor.stream("GET", path, params={"after": 3}) as response:
        assert list(told(response)) == everything[3:]
    assert visitor.get(path, params={"after": len(everything)}).status_code == 204
    assert visitor.get(path, params={"after": -1}).status_code == 400
    assert visitor.get(path, headers={"Last-Event-ID": "x"}).status_code == 422


@ONE_DATABASE
def test_several_read_one_turn_at_the_same_time(talkative: Served) -> None:
    visitor = talkative.visitor()
    with visitor.stream("POST", "/api/ask", json={"question": QUESTION, "compare": False}) as one:
        asking = told(one)
        first = next(asking)
        also = rest(visitor, turn_id_of([first]))
        assert [first, *asking] == also


def test_nobody_else_can_follow_or_stop_a_turn(talkative: Served) -> None:
    owner, other = talkative.visitor(), talkative.visitor()
    turn_id = turn_id_of(ask_and_lose(owner, 5))
    for path in (f"/api/turns/{turn_id}", "/api/turns/0123456789abcdef"):
        assert other.get(f"{path}/stream").status_code == 404
        assert other.post(f"{path}/stop", json={}).status_code == 404
    assert httpx.get(f"{talkative.url}/api/turns/{turn_id}/stream").status_code == 401
    assert rest(owner, turn_id)[-1][1] == "done"
    assert other.get(f"/api/turns/{turn_id}/stream").status_code == 404


def test_a_turn_that_has_left_memory_is_told_from_its_rows(
    talkative: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "KEPT_S", 0.0)
    owner, other = talkative.visitor(), talkative.visitor()
    events = ask_and_lose(owner, 10_000, compare=True)
    turn_id = turn_id_of(events)
    again = eventually(lambda: len(found := rest(owner, turn_id)) < 10 and found)
    assert [(number, name) for number, name, _ in again] == [
        (1, "turn"),
        (2, "end"),
        (3, "end"),
        (4, "done"),
    ]
    by_side = {data: name for _, name, data in events if name == "end"}
    assert {data for _, name, data in again if name == "end"} == set(by_side)
    assert [(number, name) for number, name, _ in rest(owner, turn_id, 50)] == [
        (51, "end"),
        (52, "end"),
        (53, "done"),
    ]
    assert other.get(f"/api/turns/{turn_id}/stream").status_code == 404
    assert owner.post(f"/api/turns/{turn_id}/stop", json={}).json() == {"stopped": False}


def test_a_refreshed_page_finds_the_turn_that_is_still_being_answered(talkative: Served) -> None:
    visitor = talkative.visitor()
    events = ask_and_lose(visitor, 5)
    conversation = events[0][2].split('"conversation_id":"')[1][:16]

    def turn() -> dict[str, Any]:
        found: dict[str, Any] = visitor.get(f"/api/conversations/{conversation}").json()["turns"][0]
        return found

    assert turn()["running"]
    assert turn()["answers"] == []
    assert rest(visitor, turn()["id"])[-1][1] == "done"
    assert not turn()["running"]


def test_a_page_that_stays_away_ends_the_answer_and_what_was_written_is_kept(
    make_settings: Callable[..., Settings], engine: Engine, tireless: Path, handbook: None
) -> None:
    answers = {**LONG, "max_new_tokens": 900, "reconnect_s": 0.2}
    with serving(make_settings(base_policy=str(tireless), answers=answers), engine) as served:
        visitor = served.visitor()
        turn_id = turn_id_of(ask_and_lose(visitor, 12))
        (row,) = eventually(lambda: stored(engine, turn_id))
        assert row.finish_reason == "cancelled"
        assert 12 <= len(row.token_ids) < 900
        last = rest(visitor, turn_id)[-2:]
        assert [name for _, name, _ in last] == ["end", "error"]
        assert "connection was lost" in last[1][2]


def test_a_turn_is_stopped_by_its_owner_and_its_answer_kept(talkative: Served) -> None:
    visitor = talkative.visitor()
    with visitor.stream("POST", "/api/ask", json={"question": QUESTION, "compare": False}) as one:
        asking = told(one)
        heard = [next(asking) for _ in range(10)]
        turn_id = turn_id_of(heard)
        assert visitor.post(f"/api/turns/{turn_id}/stop", json={}).json() == {"stopped": True}
        heard += asking
    assert [name for _, name, _ in heard[-2:]] == ["end", "done"]
    assert '"finish_reason":"cancelled"' in heard[-2][2]
    assert visitor.post(f"/api/turns/{turn_id}/stop", json={}).json() == {"stopped": False}
    (row,) = stored(talkative.engine, turn_id)
    assert row.finish_reason == "cancelled"
    assert f'"candidate_id":"{row.id}"' in heard[-2][2]
    assert len(row.token_ids) < 400


@contextmanager
def not_reading(served: Served, visitor: Visitor, body: str) -> Iterator[socket.socket]:
    """A connection that asks and takes nothing; all buffers are as small as the kernel allows,
    so that the server cannot send."""
    host, port = served.url.removeprefix("http://").split(":")
    # What the server accepts has the listening socket's.
    with served.listening as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    cookie = f"heed_session={visitor.cookies['heed_session']}"
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        slow.settimeout(60)
        slow.connect((host, int(port)))
        slow.sendall(
            f"POST /api/ask HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookie}\r\n"
            "Sec-Fetch-Site: same-origin\r\n"
            f"Content-Type: application/json\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        yield slow


@ONE_DATABASE
def test_a_reader_who_does_not_read_holds_up_nobody_and_loses_nothing(
    make_settings: Callable[..., Settings], engine: Engine, tireless: Path, handbook: None
) -> None:
    """One pair of answers at a time. That of the reader who does not read ends all the same, and
    the next question is answered; the server holds no more than its buffer; nothing is lost."""

    def pair_at_a_time(base: Path, _settings: Settings) -> rlhf_engine.TorchEngine:
        return rlhf_engine.TorchEngine(base, "float32", threads=1, max_rows=2)

    settings = make_settings(base_policy=str(tireless), answers={**LONG, "max_new_tokens": 900})
    with serving(settings, engine, engine_factory=pair_at_a_time) as served:
        visitor, other = served.visitor(), served.visitor()
        body = f'{{"question": "{QUESTION}", "compare": true}}'
        with not_reading(served, visitor, body) as slow:
            eventually(lambda: served.held_back)
            assert other.ask(QUESTION).last == "done"
            with session(engine) as opened:
                assert len(opened.exec(select(Candidate)).all()) == 3
            (waiting,) = served.held_back
            assert waiting < HIGH_WATER_LIMIT + 1024
            text = b""
            while piece := slow.recv(65536):
                text += piece
    assert text.count(b"event: token") >= 1800
    assert b"event: done" in text
