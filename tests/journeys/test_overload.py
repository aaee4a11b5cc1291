"""More questions than can be answered: refused at once, with an estimate, and without any work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, event

import rlhf_engine
from service.settings import Settings
from tests.journeys.conftest import ONE_DATABASE
from tests.journeys.server import Visitor, eventually, serving
from tests.tiny import tireless_base

pytestmark = ONE_DATABASE

QUESTION = "How many days of annual leave do I have?"
LONG = {"max_new_tokens": 800, "temperature": 0.3, "reconnect_s": 0}


@pytest.fixture(scope="session")
def tireless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tireless_base(tmp_path_factory.mktemp("tireless"))


class SlowEngine(rlhf_engine.TorchEngine):  # type: ignore[misc]
    """An engine that is easily saturated: one answer at a time, 5 ms a token."""

    def submit(self, *arguments: Any, **more: Any) -> Any:
        *before, on_event = arguments

        def slowly(told: Any) -> None:
            time.sleep(0.005)
            on_event(told)

        return super().submit(*before, slowly, **more)


def slow_engine(base: Path, settings: Settings) -> SlowEngine:
    waiting = settings.answers.max_waiting
    return SlowEngine(base, "float32", threads=1, max_waiting=waiting, max_rows=1)


@pytest.fixture
def small(
    make_settings: Callable[..., Settings], engine: Engine, tireless: Path, handbook: None
) -> Callable[..., Any]:
    """A server that answers one question at a time, and slowly."""

    def start(**answers: Any) -> Any:
        settings = make_settings(base_policy=str(tireless), answers={**LONG, **answers})
        return serving(settings, engine, engine_factory=slow_engine)

    return start


@contextmanager
def asking(visitors: list[Visitor]) -> Iterator[list[httpx.Response]]:
    """A question of each visitor, with its stream left open."""
    body = {"question": QUESTION, "compare": False}
    with ExitStack() as streams:
        yield [
            streams.enter_context(visitor.stream("POST", "/api/ask", json=body))
            for visitor in visitors
        ]


@contextmanager
def statements() -> Iterator[list[str]]:
    """Every statement on any database while the block runs that is about asking."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if any(table in statement for table in ("person", "conversation", "turn", "passage")):
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def refusal(visitor: Visitor) -> tuple[httpx.Response, float]:
    """A question that is refused, and after how many milliseconds."""
    began = time.perf_counter()
    response = visitor.post("/api/ask", json={"question": QUESTION})
    return response, 1000 * (time.perf_counter() - began)


def test_a_full_queue_refuses_within_50_ms_without_the_database(
    small: Callable[..., Any],
) -> None:
    with small(max_waiting=2) as served:
        visitors = [served.visitor() for _ in range(4)]
        with asking(visitors[:3]) as accepted, statements() as seen:
            assert [response.status_code for response in accepted] == [200, 200, 200]
            seen.clear()
            answers = [refusal(visitors[3]) for _ in range(20)]
            assert seen == []
        assert {response.status_code for response, _ in answers} == {503}
        assert sorted(ms for _, ms in answers)[-2] < 50
        response = answers[0][0]
        assert response.headers["content-type"] == "application/problem+json"
        assert "2 questions wait already" in response.json()["detail"]
        assert 1 <= int(response.headers["retry-after"]) <= 120


def test_one_person_has_no_more_than_their_share(small: Callable[..., Any]) -> None:
    with small(max_per_person=2) as served:
        greedy, other = served.visitor(), served.visitor()
        with asking([greedy, greedy]), statements() as seen:
            seen.clear()
            answers = [refusal(greedy) for _ in range(10)]
            assert seen == []
            assert {response.status_code for response, _ in answers} == {429}
            assert sorted(ms for _, ms in answers)[-2] < 50
            response = answers[0][0]
            assert 1 <= int(response.headers["retry-after"]) <= 120
            assert "2 of your questions" in response.json()["detail"]
            with asking([other]) as (accepted,):
                assert accepted.status_code == 200


def test_a_refusal_waits_for_no_thread(small: Callable[..., Any]) -> None:
    """Even where every thread that looks something up is busy."""
    with small(max_waiting=1) as served:
        visitors = [served.visitor() for _ in range(3)]
        released = threading.Event()
        with asking(visitors[:2]) as accepted:
            assert [response.status_code for response in accepted] == [200, 200]
            loop = served.loop
            for _ in range(64):
                loop.call_soon_threadsafe(loop.run_in_executor, None, released.wait, 30)
            try:
                answers = [refusal(visitors[2]) for _ in range(10)]
            finally:
                released.set()
    assert {response.status_code for response, _ in answers} == {503}
    assert sorted(ms for _, ms in answers)[-2] < 50


def test_the_estimate_follows_queue_and_speed(small: Callable[..., Any]) -> None:
    with small(max_waiting=1, max_new_tokens=200) as served:
        first = served.visitor()
        began = time.perf_counter()
        first.ask(QUESTION)
        took_s = time.perf_counter() - began
        second, third = served.visitor(), served.visitor()
        with asking([second]) as (accepted,):
            assert accepted.status_code == 200
            # Nobody waits, but whoever did would wait for a whole answer.
            response, _ = refusal(third)
        assert response.status_code == 503
        assert "as can be at once" in response.json()["detail"]
        assert 1 <= int(response.headers["retry-after"]) <= took_s + 2


def test_a_question_that_waits_too_long_is_dropped(small: Callable[..., Any]) -> None:
    with small(longest_wait_s=1, max_new_tokens=600) as served:
        first, second = served.visitor(), served.visitor()
        with asking([first]) as (running,):
            stream = second.ask(QUESTION)
            assert stream.last == "error"
            assert "waited too long" in str(stream.error)
            assert stream.pieces == {}
            text = running.read().decode()
        assert "event: done" in text


class HeldEngine(rlhf_engine.TorchEngine):  # type: ignore[misc]
    """One answer at a time. What it tells, and what it is told, stands in `log` by the number of
    the question; the first question's tokens after the third wait for `released`."""

    def __init__(self, base: Path) -> None:
        super().__init__(base, "float32", threads=1, max_rows=1)
        self.log: list[tuple[int, str]] = []
        self.released = threading.Event()
        self._asked = 0

    def submit(self, *arguments: Any, **more: Any) -> Any:
        *before, on_event = arguments
        number = self._asked
        self._asked += 1

        def held(told: Any) -> None:
            self.log.append((number, type(told).__name__))
            on_event(told)
            if number == 0 and len(self.log) > 3:
                assert self.released.wait(60)

        job = super().submit(*before, held, **more)
        cancel = job.cancel

        def cancelled() -> None:
            self.log.append((number, "cancel"))
            cancel()

        job.cancel = cancelled
        return job


def test_who_leaves_frees_the_slot_within_one_step(
    make_settings: Callable[..., Settings], engine: Engine, tireless: Path, handbook: None
) -> None:
    """The engine stands still in the midst of a step while one client leaves and another waits;
    then the first question gets no more than the token of one more step."""
    engines: list[HeldEngine] = []

    def made(base: Path, _settings: Settings) -> HeldEngine:
        engines.append(HeldEngine(base))
        return engines[0]

    settings = make_settings(base_policy=str(tireless), answers=LONG)
    with serving(settings, engine, engine_factory=made) as served:
        held, (first, second) = engines[0], (served.visitor(), served.visitor())
        with asking([first]) as (stream,):
            eventually(lambda: len(held.log) > 3)
            with asking([second]):
                eventually(lambda: held.stats().waiting == 1)
                stream.close()
                eventually(lambda: (0, "cancel") in held.log)
                held.released.set()
                eventually(lambda: (1, "Token") in held.log)
                log = list(held.log)
    after = log[log.index((0, "cancel")) + 1 :]
    told = [entry for entry in after if entry[1] != "cancel"]
    assert told[: told.index((1, "Token"))] in (
        [(0, "Failed")],
        [(0, "Token"), (0, "Failed")],
    )
