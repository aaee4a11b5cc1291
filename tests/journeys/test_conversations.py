"""Conversations over HTTP: branches, search, deleting, temporary chats, sources at their place."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import Engine
from sqlmodel import func, select

from service import evidence
from service.database import session
from service.settings import Settings
from service.tables import Candidate, Conversation, Turn
from tests.journeys.conftest import LEAVE
from tests.journeys.server import Served, Visitor, serving

QUESTION = "How many days of annual leave are there?"


def conversations(visitor: Visitor, **query: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = visitor.get("/api/conversations", params=query).json()[
        "conversations"
    ]
    return rows


def remove(visitor: Visitor, path: str) -> httpx.Response:
    return visitor.request("DELETE", path, json={})


def test_an_edited_question_begins_a_branch_and_is_answered_from_it(served: Served) -> None:
    ada = served.visitor()
    first = ada.ask("First")
    place = {"conversation_id": first.turn["conversation_id"]}
    second = ada.ask("Second", **place)
    edited = ada.ask("Second, edited", **place, instead_of_turn_id=second.turn["turn_id"])
    third = ada.ask("Third", **place)
    beside = ada.ask("Third of the old branch", **place, after_turn_id=second.turn["turn_id"])

    shown = ada.get(f"/api/conversations/{place['conversation_id']}").json()
    parents = {turn["question"]: turn["parent_id"] for turn in shown["turns"]}
    numbers = {turn["question"]: turn["id"] for turn in shown["turns"]}
    assert parents["First"] is None
    assert parents["Second"] == parents["Second, edited"] == numbers["First"]
    assert parents["Third"] == numbers["Second, edited"]
    assert parents["Third of the old branch"] == numbers["Second"]
    assert edited.turn["parent_id"] == numbers["First"]
    assert shown["shown_turn_id"] == beside.turn["turn_id"]
    with session(served.engine) as opened:
        prompts = {
            row.question: [told["question"] for told in row.prompt["history"]]
            for row in opened.exec(select(Turn))
        }
    assert prompts["Second, edited"] == ["First"]
    assert prompts["Third"] == ["Second, edited"]
    assert prompts["Third of the old branch"] == ["Second"]

    path = f"/api/conversations/{place['conversation_id']}"
    assert ada.patch(path, json={"shown_turn_id": third.turn["turn_id"]}).status_code == 200
    assert ada.ask("Fourth", **place).turn["parent_id"] == third.turn["turn_id"]
    other = served.visitor()
    assert other.patch(path, json={"title": "mine"}).status_code == 404
    refused = ada.post("/api/ask", json={"question": "x", **place, "after_turn_id": "none"})
    assert refused.status_code == 404


def test_conversations_are_renamed_pinned_searched_and_deleted(served: Served) -> None:
    ada, bob = served.visitor(), served.visitor()
    kept, gone = ada.ask("Where is the lift?"), ada.ask(QUESTION)
    path = f"/api/conversations/{gone.turn['conversation_id']}"
    renamed = ada.patch(path, json={"title": "Holidays", "pinned": True}).json()
    assert (renamed["title"], renamed["pinned"]) == ("Holidays", True)
    assert [row["title"] for row in conversations(ada)] == ["Holidays", "Where is the lift?"]
    [hit] = conversations(ada, search="of annual leave are")
    assert (hit["title"], hit["found_turn_id"]) == ("Holidays", gone.turn["turn_id"])
    assert conversations(bob, search="annual leave") == []

    assert remove(bob, path).status_code == 404
    assert remove(ada, path).status_code == 204
    for refused in (
        ada.get(path),
        ada.get(f"/api/turns/{gone.turn['turn_id']}"),
        ada.get(f"/api/turns/{gone.turn['turn_id']}/stream"),
        ada.post(f"/api/turns/{gone.turn['turn_id']}/stop", json={}),
        ada.patch(path, json={"pinned": False}),
        ada.post(f"/api/candidates/{gone.ends['']['candidate_id']}/thumb", json={"value": 1}),
        remove(ada, path),
    ):
        assert refused.status_code == 404
    assert [row["id"] for row in conversations(ada)] == [kept.turn["conversation_id"]]
    # The whole question: a random policy may well say "leave" by itself.
    assert conversations(ada, search=QUESTION) == []


def test_of_a_temporary_chat_nothing_is_stored(served: Served) -> None:
    ada, bob = served.visitor(), served.visitor()
    first = ada.ask(QUESTION, temporary=True)
    assert first.turn["temporary"] is True
    assert first.last == "done"
    place = {"conversation_id": first.turn["conversation_id"]}
    second = ada.ask("And then?", **place)
    path = f"/api/conversations/{place['conversation_id']}"

    shown = ada.get(path).json()
    assert shown["temporary"] is True
    assert [turn["question"] for turn in shown["turns"]] == [QUESTION, "And then?"]
    assert shown["turns"][1]["parent_id"] == first.turn["turn_id"]
    assert shown["turns"][0]["answers"][0]["text"] == first.ends[""]["text"]
    again = ada.get(f"/api/turns/{second.turn['turn_id']}/stream").text
    assert "event: end" in again
    assert conversations(ada) == []

    refused = ada.post(f"/api/candidates/{first.ends['']['candidate_id']}/thumb", json={"value": 1})
    assert refused.status_code == 404
    two = ada.post("/api/ask", json={"question": "x", **place, "compare": True})
    assert two.status_code == 422
    assert bob.get(path).status_code == 404
    assert remove(bob, path).status_code == 404

    with session(served.engine) as opened:
        for table in (Conversation, Turn, Candidate):
            assert opened.exec(select(func.count()).select_from(table)).one() == 0
        sides = evidence.read_sides(opened, 10)
        assert evidence.gather_comparisons(opened, sides) == []
        assert evidence.gather_thumbs(opened, sides) == []
    home = served.settings.home
    written = [path for path in home.rglob("*") if path.is_file() and path.stat().st_size < 10**6]
    assert not any(b"And then?" in path.read_bytes() for path in written)

    assert remove(ada, path).status_code == 204
    assert ada.get(path).status_code == 404
    assert ada.get(f"/api/turns/{first.turn['turn_id']}/stream").status_code == 404
    ended = ada.post("/api/ask", json={"question": "x", **place, "temporary": True})
    assert ended.status_code == 404


@pytest.mark.usefixtures("handbook")
def test_a_temporary_chat_goes_on_with_one_answer_a_question(
    make_settings: Callable[..., Settings], engine: Engine
) -> None:
    settings = make_settings(answers={"compare_share": 1.0, "max_new_tokens": 4})
    with serving(settings, engine) as served:
        ada = served.visitor()
        assert ada.ask(QUESTION, compare=None).turn["sides"] == ["A", "B"]
        first = ada.ask(QUESTION, compare=None, temporary=True)
        place = {"conversation_id": first.turn["conversation_id"]}
        assert ada.ask("And then?", compare=None, **place).turn["sides"] == [""]


def test_sources_are_numbered_and_open_at_their_place(served: Served) -> None:
    ada = served.visitor()
    asked = ada.ask(QUESTION)
    assert asked.turn["no_source"] is False
    [source] = asked.turn["passages"]
    assert (source["number"], source["title"], source["heading"]) == (
        1,
        "Annual leave",
        "How much",
    )
    place = ada.get(f"/api/passages/{source['id']}").json()
    assert place["title"] == "Annual leave"
    assert [part["text"] for part in place["passages"] if part["asked_for"]] == [LEAVE]
    assert ada.get("/api/passages/none").status_code == 404
    assert httpx.get(f"{served.url}/api/passages/{source['id']}").status_code == 401


def test_where_nothing_fits_the_turn_says_so(served: Served) -> None:
    ada = served.visitor()
    asked = ada.ask("Zebra quagga?")
    assert asked.turn["no_source"] is True
    assert asked.turn["passages"] == []
    path = f"/api/conversations/{asked.turn['conversation_id']}"
    assert ada.get(path).json()["turns"][0]["no_source"] is True


def test_versions_stay_unknown_while_two_answers_are_compared(served: Served) -> None:
    ada = served.visitor()
    asked = ada.ask(QUESTION, compare=True)
    assert asked.turn["version"] is None
    assert {end["version"] for end in asked.ends.values()} == {None}
    turn = ada.get(f"/api/turns/{asked.turn['turn_id']}").json()
    assert {answer["version"] for answer in turn["answers"]} == {None}
