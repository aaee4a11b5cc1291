"""Before a vote is settled nothing the server says to its voter tells which version wrote what."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from service.database import session
from service.settings import Settings
from service.tables import Candidate, PolicyVersion, Turn
from service.voting_tables import VotePair
from tests.journeys.server import Served, Visitor, eventually, serving

QUESTION = "How many days of annual leave do I have?"
UNDO_S = 1.0
SECRETS = ("version", "canary", "seed", "settings", "made_with", "engine")


@pytest.fixture
def served(
    make_settings: Callable[..., Settings], engine: Engine, handbook: None
) -> Iterator[Served]:
    voting = {"undo_s": UNDO_S, "check_share": 0}
    with serving(make_settings(voting=voting), engine) as running:
        yield running


def told(found: Any) -> list[Any]:
    """Every value under a key that would tell who wrote an answer."""
    if isinstance(found, list):
        return [value for item in found for value in told(item)]
    if not isinstance(found, dict):
        return []
    here = [value for key, value in found.items() if any(word in key for word in SECRETS)]
    return [value for value in here if value not in (None, False)] + told(list(found.values()))


def everything(visitor: Visitor, turn: dict[str, Any]) -> list[Any]:
    """All that the server tells of a turn: its page, its turn, and its events once more."""
    conversation = visitor.get(f"/api/conversations/{turn['conversation_id']}").json()
    again = visitor.get(f"/api/turns/{turn['turn_id']}/stream").text
    events = [
        json.loads(line.removeprefix("data: "))
        for line in again.splitlines()
        if line.startswith("data: ")
    ]
    return [conversation, events, visitor.get("/api/my/feedback").json()]


def version_texts(served: Served) -> list[str]:
    with session(served.engine) as opened:
        return list(opened.exec(select(PolicyVersion.id)))


def test_a_vote_is_blind_until_it_is_settled_and_tells_after(served: Served) -> None:
    visitor = served.visitor()
    events = list(visitor.events(QUESTION, compare=True))
    turn = events[0][1]
    assert told([data for _name, data in events]) == []
    assert told(everything(visitor, turn)) == []
    text = json.dumps([events, everything(visitor, turn)])
    assert not [number for number in version_texts(served) if number in text]
    path = f"/api/turns/{turn['turn_id']}/comparison"
    voted = visitor.post(path, json={"choice": "B", "interface": "chat/1"}).json()
    assert voted["undo_s"] == UNDO_S
    reveal = f"/api/my/feedback/comparisons/{voted['id']}/reveal"
    assert told(visitor.get(reveal).json()) == []
    time.sleep(UNDO_S)
    found = eventually(lambda: visitor.get(reveal).json()["version_a"] is not None, 10)
    assert found
    assert visitor.get(reveal).json()["goes_on_with"] == "B"
    answers = visitor.get(f"/api/conversations/{turn['conversation_id']}").json()["turns"][0]
    assert [answer["version"] for answer in answers["answers"]] == [0, 0]


def test_an_undone_vote_stays_blind(served: Served) -> None:
    visitor = served.visitor()
    turn = visitor.ask(QUESTION, compare=True).turn
    voted = visitor.post(f"/api/turns/{turn['turn_id']}/comparison", json={"choice": "A"}).json()
    headers = {"content-type": "application/json"}
    gone = visitor.delete(f"/api/my/feedback/comparisons/{voted['id']}", headers=headers)
    assert gone.status_code == 200
    time.sleep(UNDO_S)
    conversation = visitor.get(f"/api/conversations/{turn['conversation_id']}").json()
    assert told(conversation) == []


def test_the_chosen_answer_carries_the_conversation_on(served: Served) -> None:
    visitor = served.visitor()
    first = visitor.ask(QUESTION, compare=True)
    path = f"/api/turns/{first.turn['turn_id']}/comparison"
    assert visitor.post(path, json={"choice": "B"}).status_code == 201
    second = visitor.ask("And next year?", conversation_id=first.turn["conversation_id"])
    with session(served.engine) as opened:
        prompt = opened.get_one(Turn, second.turn["turn_id"]).prompt
    assert [item["answer"] for item in prompt["history"]] == [first.ends["B"]["text"]]


def test_the_queue_offers_a_turn_of_ones_own_that_waits_for_a_vote(served: Served) -> None:
    visitor, stranger = served.visitor(), served.visitor()
    turn = visitor.ask(QUESTION, compare=True).turn
    assert stranger.post("/api/vote-queue", json={}).json() == {"offer": None}
    offered = visitor.post("/api/vote-queue", json={}).json()["offer"]
    assert told(offered) == []
    assert offered["question"] == QUESTION
    with session(served.engine) as opened:
        pair = opened.exec(select(VotePair)).one()
        rows = opened.exec(select(Candidate).where(Candidate.turn_id == turn["turn_id"])).all()
    assert (pair.pairing, pair.probability) == ("requested", 1.0)
    assert {offered["answer_a"], offered["answer_b"]} == {row.text for row in rows}
    path = f"/api/vote-queue/{offered['id']}"
    assert stranger.post(path, json={"choice": "A"}).status_code == 404
    assert visitor.post(path, json={"choice": "A", "strength": "much"}).status_code == 201
    assert visitor.post(path, json={"choice": "A"}).status_code == 409
    figures = visitor.get("/api/vote-queue/figures").json()
    assert (figures["waiting"], figures["own"]["total"]) == (0, 1)
