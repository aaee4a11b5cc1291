"""The real process is told to stop: answers may end, clients hear of it, and it exits in time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine
from sqlmodel import select

from service.database import session
from service.tables import Candidate
from tests.journeys.conftest import ONE_DATABASE
from tests.journeys.server import Visitor, eventually
from tests.journeys.test_streams import Told, told
from tests.tiny import tireless_base

QUESTION = "How many days of annual leave do I have?"
SLOW_START = (
    "import time; from rlhf_engine.answer_job import Job; tell = Job.tell;"
    "Job.tell = lambda job, event: (time.sleep(0.005), tell(job, event))[1];"
    "from service.cli import app; app()"
)
"""`heed` with an engine that takes 5 ms longer for each token."""

Visit = Callable[[str], Visitor]
Start = Callable[..., tuple["subprocess.Popen[bytes]", str]]


@pytest.fixture(scope="module")
def tireless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tireless_base(tmp_path_factory.mktemp("tireless"))


@pytest.fixture
def start(engine: Engine, tireless: Path, tmp_path: Path) -> Iterator[Start]:
    """`heed serve` in a process of its own, ready for questions."""
    with ExitStack() as processes:

        def begin(**answers: object) -> tuple[subprocess.Popen[bytes], str]:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            settings = {
                "home": tmp_path / "home",
                "database_url": engine.url.render_as_string(hide_password=False),
                "base_policy": tireless,
                "port": port,
                "threads": 1,
                "dtype": "float32",
                "visitors": "employee",
                "sync_schedule": "",
                "cleanup_schedule": "",
                "training__schedule": "",
                "answers__max_new_tokens": 600,
                "answers__temperature": 0.3,
                **{f"answers__{name}": value for name, value in answers.items()},
            }
            variables = {f"HEED_{name.upper()}": str(value) for name, value in settings.items()}
            output = processes.enter_context((tmp_path / "log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-c", SLOW_START, "serve"],
                env={**os.environ, **variables},
                cwd=tmp_path,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            processes.callback(process.wait, 30)
            processes.callback(process.kill)
            url = f"http://127.0.0.1:{port}"
            eventually(lambda: process.poll() is not None or status(f"{url}/health/ready") == 200)
            assert process.poll() is None, (tmp_path / "log").read_text()
            return process, url

        yield begin


def status(url: str) -> int | None:
    try:
        return httpx.get(url).status_code
    except httpx.TransportError:
        return None


@pytest.fixture
def visitor_at() -> Iterator[Callable[[str], Visitor]]:
    with ExitStack() as visitors:

        def visit(url: str) -> Visitor:
            visitor = visitors.enter_context(Visitor(base_url=url, timeout=60))
            visitor.headers["sec-fetch-site"] = "same-origin"
            visitor.get("/api/me").raise_for_status()
            return visitor

        yield visit


def finish_reasons(engine: Engine) -> list[str]:
    with session(engine) as opened:
        return [row.finish_reason for row in opened.exec(select(Candidate))]


@ONE_DATABASE
def test_answers_that_have_begun_may_end_while_new_questions_are_refused(
    start: Start, visitor_at: Visit, engine: Engine
) -> None:
    process, url = start(drain_s=30)
    visitor, late = visitor_at(url), visitor_at(url)
    with visitor.stream("POST", "/api/ask", json={"question": QUESTION, "compare": False}) as one:
        heard = told(one)
        taken = [next(heard) for _ in range(5)]
        process.send_signal(signal.SIGTERM)
        eventually(lambda: status(f"{url}/health/ready") == 503)
        assert late.get("/health/live").status_code == 200
        refused = late.post("/api/ask", json={"question": QUESTION})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "stopping" in refused.json()["detail"]
        taken += heard
    assert [name for _, name, _ in taken[-2:]] == ["end", "done"]
    assert process.wait(15) == 0
    assert finish_reasons(engine) == ["length"]


def test_past_the_limit_clients_hear_of_the_restart_and_what_was_written_is_kept(
    start: Start, visitor_at: Visit, engine: Engine
) -> None:
    process, url = start(drain_s=0.3)
    with visitor_at(url).stream(
        "POST", "/api/ask", json={"question": QUESTION, "compare": True}
    ) as one:
        heard = told(one)
        taken: list[Told] = [next(heard) for _ in range(5)]
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        taken += heard
    assert [name for _, name, _ in taken[-3:]] == ["end", "end", "error"]
    assert "server restarts" in taken[-1][2]
    assert process.wait(15) == 0
    assert time.monotonic() - began < 10
    assert finish_reasons(engine) == ["cancelled", "cancelled"]


@ONE_DATABASE
def test_a_reader_who_does_not_read_does_not_hold_up_the_end(
    start: Start, visitor_at: Visit, engine: Engine
) -> None:
    process, url = start(drain_s=0.3, max_new_tokens=900)
    visitor = visitor_at(url)
    with visitor.stream("POST", "/api/ask", json={"question": QUESTION, "compare": True}):
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - began < 15
    assert len(finish_reasons(engine)) <= 2


@ONE_DATABASE
def test_a_second_signal_ends_it_at_once(start: Start, visitor_at: Visit) -> None:
    process, url = start(drain_s=60)
    with visitor_at(url).stream("POST", "/api/ask", json={"question": QUESTION}) as one:
        next(told(one))
        process.send_signal(signal.SIGTERM)
        eventually(lambda: status(f"{url}/health/ready") == 503)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
        assert time.monotonic() - began < 1
