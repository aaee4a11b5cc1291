"""Answers beyond the plain journey: too many at once, an engine that fails, a server that stops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import select

import rlhf_engine
from rlhf_engine.records import from_json
from service import answering, people, policies
from service.answering import Answering, AskOptions
from service.database import migrate, open_database, session
from service.errors import InvalidInputError, NotFoundError
from service.serving import NotReadyError, Serving
from service.settings import Settings
from service.stored_turns import prepare
from service.tables import Candidate, Person, Turn
from service.turn_events import AnswerEnded, Event, TurnDone, TurnFailed, TurnStarted
from tests.journeys.conftest import settings_for
from tests.journeys.server import serving
from tests.tiny import tiny_base, tireless_base

QUESTION = "How many days of annual leave do I have?"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


class Room:
    """Everything an answer needs, without a web server."""

    def __init__(self, home: Path, base: Path) -> None:
        self.database = open_database(f"sqlite:///{home}/heed.db")
        migrate(self.database)
        self.settings: Settings = settings_for(
            self.database, base, home, answers={"max_new_tokens": 200}
        )
        self.serving = Serving(self.settings)
        self.answering = Answering(self.database, self.settings, self.serving)
        with session(self.database) as opened:
            self.person: Person = people.new_visitor(opened, "employee")
            self.version = policies.register_base(opened, self.settings, base)

    def open(self, base: Path) -> None:
        self.serving.open(base)
        self.serving.load(self.version.id, 0)
        self.serving.make_live(self.version.id)

    def stored(self) -> list[Candidate]:
        with session(self.database) as opened:
            return list(opened.exec(select(Candidate)))


@pytest.fixture
def room(tmp_path: Path, base: Path) -> Iterator[Room]:
    made = Room(tmp_path, base)
    yield made
    made.serving.close(0)
    made.database.dispose()


async def heard(room: Room, **more: Any) -> list[Event]:
    asked = await room.answering.ask(room.person, QUESTION, **more)
    return [numbered.event async for numbered in asked.events()]


def test_before_a_version_is_loaded_nothing_is_asked_or_stored(room: Room) -> None:
    with pytest.raises(NotReadyError, match="still loading"):
        asyncio.run(heard(room))
    with session(room.database) as opened:
        assert opened.exec(select(Turn)).first() is None


def test_events_come_in_order_and_the_lease_is_given_back(room: Room, base: Path) -> None:
    room.open(base)
    events = asyncio.run(heard(room, compare=True))
    assert isinstance(events[0], TurnStarted)
    assert isinstance(events[-1], TurnDone)
    ends = [event for event in events if isinstance(event, AnswerEnded)]
    assert sorted(end.side for end in ends) == ["A", "B"]
    assert {row.id for row in room.stored()} == {end.candidate_id for end in ends}
    assert room.serving.leases() == {}


def test_a_turn_tells_how_many_tokens_of_its_prompt_were_read(room: Room, base: Path) -> None:
    room.open(base)

    async def read() -> tuple[int | None, int | None]:
        asked = await room.answering.ask(room.person, QUESTION)
        before = asked.prompt_tokens
        async for numbered in asked.events():
            if isinstance(numbered.event, AnswerEnded):
                return before, asked.prompt_tokens
        return before, None

    before, told = asyncio.run(read())
    with session(room.database) as opened:
        prompt = from_json(rlhf_engine.Prompt, opened.exec(select(Turn)).one().prompt)
    assert before is None
    assert told == room.serving.count_prompt_tokens(prompt, 384)


def test_what_a_simulated_person_asks_is_labelled_in_every_row(room: Room, base: Path) -> None:
    room.open(base)
    with session(room.database) as opened:
        room.person = people.simulated_person(opened, "voter")
    asyncio.run(heard(room))
    with session(room.database) as opened:
        assert [turn.simulated for turn in opened.exec(select(Turn))] == [True]
    assert [row.simulated for row in room.stored()] == [True]


def test_a_version_in_use_is_not_retired(room: Room, base: Path) -> None:
    room.open(base)
    (lease,) = room.serving.lease_answers(1)
    room.serving.make_live("another version")
    room.serving.retire_unused(set())
    assert lease.version_id in room.serving.loaded()
    room.serving.give_back(lease.version_id)
    room.serving.retire_unused(set())
    assert room.serving.loaded() == set()


def test_an_engine_that_stops_ends_the_turn_with_an_error_and_keeps_what_was_said(
    room: Room, base: Path
) -> None:
    room.open(base)

    async def stop_early() -> list[Event]:
        asked = await room.answering.ask(room.person, QUESTION, compare=True)
        taken: list[Event] = []
        async for numbered in asked.events():
            taken.append(numbered.event)
            if len(taken) == 4:
                await asyncio.to_thread(room.serving.close, 0.0)
        return taken

    events = asyncio.run(stop_early())
    last = events[-1]
    assert isinstance(last, TurnFailed)
    assert "engine stopped" in last.detail
    assert "cancelled" in {row.finish_reason for row in room.stored()}
    assert room.serving.leases() == {}


def test_a_question_that_the_database_cannot_keep_is_not_answered(room: Room, base: Path) -> None:
    room.open(base)
    nobody = Person(name="gone")
    with pytest.raises(Exception, match="FOREIGN KEY"):
        asyncio.run(_ask_as(room, nobody))
    assert room.serving.leases() == {}
    assert room.stored() == []


def test_a_temporary_chat_that_is_deleted_while_its_next_question_is_made_ready_stays_forgotten(
    room: Room, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.open(base)
    chat = room.answering.temporary.begin("a chat", room.person.id)

    def deleted_meanwhile(*given: Any) -> Any:
        room.answering.leave_conversation(room.person.id, chat.id)
        return prepare(*given)

    monkeypatch.setattr(answering, "prepare", deleted_meanwhile)
    with pytest.raises(NotFoundError, match="is forgotten"):
        asyncio.run(heard(room, conversation_id=chat.id))
    assert len(room.answering.temporary) == 0
    assert room.serving.leases() == {}


def test_a_turn_is_named_together_with_its_conversation(room: Room, base: Path) -> None:
    room.open(base)
    for options in (AskOptions(after="a turn"), AskOptions(instead_of="a turn")):
        with pytest.raises(InvalidInputError, match="conversation_id"):
            asyncio.run(heard(room, options=options))


async def _ask_as(room: Room, person: Person) -> None:
    await room.answering.ask(person, QUESTION)


def one_at_a_time(base: Path, settings: Settings) -> rlhf_engine.TorchEngine:
    """An engine that is easily saturated."""
    waiting = settings.answers.max_waiting
    return rlhf_engine.TorchEngine(base, "float32", threads=1, max_waiting=waiting, max_rows=1)


def test_questions_beyond_the_queue_are_refused_at_once(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(database)
    limits = {"max_new_tokens": 800, "max_waiting": 1, "temperature": 0.3}
    base = tireless_base(tmp_path / "tireless")
    settings = settings_for(database, base, tmp_path, answers=limits)
    slow = serving(settings, database, engine_factory=one_at_a_time)
    with slow as served, ExitStack() as streams:
        accepted = 0
        while accepted < 5:
            visitor = served.visitor()
            body = {"question": QUESTION, "compare": False}
            response: httpx.Response = streams.enter_context(
                visitor.stream("POST", "/api/ask", json=body)
            )
            if response.status_code != 200:
                break
            accepted += 1
        assert response.status_code == 503
        assert response.headers["retry-after"] == "5"
        response.read()
        assert "wait already" in response.json()["detail"]
        with session(database) as opened:
            assert len(opened.exec(select(Turn)).all()) == accepted
    database.dispose()


def test_serving_says_what_it_waits_for(room: Room, base: Path) -> None:
    assert not room.serving.ready
    with pytest.raises(NotReadyError):
        room.serving.load(room.version.id, 0)
    room.open(base)
    assert room.serving.ready
    # What was verified to be loaded is not read again.
    room.settings.policies.rename(room.settings.home / "moved")
    room.serving.try_out(room.version.id)
    question = "Who signs my travel expenses?"
    assert not room.serving.surely_fits(question, 384), "nothing was counted yet"
    counted = room.serving.count_prompt_tokens(rlhf_engine.Prompt("", question), None)
    assert room.serving.surely_fits(question, 384)
    assert not room.serving.surely_fits(question, counted - 1)
    assert not room.serving.surely_fits("x" * 384, 384)
    room.serving.close(0)
    assert room.serving.waits_for == "the server is stopping"
    with pytest.raises(rlhf_engine.EngineError):
        room.serving.try_out(room.version.id)
