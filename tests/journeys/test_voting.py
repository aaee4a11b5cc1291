"""Journey 2: comparisons, thumbs and corrections, one row each, by the one who was answered."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlmodel import select

from service.database import session
from service.tables import Comparison, GoldAnswer, Thumb
from tests.journeys.server import Served, Stream, Visitor

QUESTION = "How many days of annual leave do I have?"


@pytest.fixture
def visitor(served: Served) -> Visitor:
    return served.visitor()


@pytest.fixture
def stream(visitor: Visitor) -> Stream:
    return visitor.ask(QUESTION, compare=True)


def vote(visitor: Visitor, stream: Stream, **body: Any) -> httpx.Response:
    return visitor.post(f"/api/turns/{stream.turn['turn_id']}/comparison", json=body)


def thumb(visitor: Visitor, stream: Stream, **body: Any) -> httpx.Response:
    candidate = stream.ends["A"]["candidate_id"]
    return visitor.post(f"/api/candidates/{candidate}/thumb", json=body)


def shown(visitor: Visitor, stream: Stream) -> dict[str, Any]:
    path = f"/api/conversations/{stream.turn['conversation_id']}"
    turn: dict[str, Any] = visitor.get(path).json()["turns"][0]
    return turn


def test_a_comparison_is_one_row_with_sides_strength_and_time(
    served: Served, visitor: Visitor, stream: Stream
) -> None:
    response = vote(visitor, stream, choice="B", strength="much", decision_ms=2300)
    assert response.status_code == 201
    with session(served.engine) as opened:
        (row,) = opened.exec(select(Comparison)).all()
    assert (row.id, row.choice, row.strength) == (response.json()["id"], "B", "much")
    assert row.decision_ms == 2300
    assert row.candidate_a_id == stream.ends["A"]["candidate_id"]
    assert row.candidate_b_id == stream.ends["B"]["candidate_id"]
    assert not row.simulated
    assert shown(visitor, stream)["comparison"]["choice"] == "B"


def test_a_second_vote_is_refused_and_says_how_to_change_the_first(
    served: Served, visitor: Visitor, stream: Stream
) -> None:
    first = vote(visitor, stream, choice="A").json()["id"]
    again = vote(visitor, stream, choice="B")
    assert again.status_code == 409
    assert "replaces" in again.json()["detail"]
    changed = vote(visitor, stream, choice="B", replaces=first)
    assert changed.status_code == 201
    with session(served.engine) as opened:
        assert len(opened.exec(select(Comparison)).all()) == 2
    assert shown(visitor, stream)["comparison"] == {
        "id": changed.json()["id"],
        "choice": "B",
        "strength": None,
    }


def test_nobody_votes_on_somebody_elses_turn(
    served: Served, visitor: Visitor, stream: Stream
) -> None:
    other = served.visitor()
    refused = [
        vote(other, stream, choice="A"),
        thumb(other, stream, value=1),
        other.post(
            f"/api/candidates/{stream.ends['A']['candidate_id']}/correction",
            json={"answer": "28 days"},
        ),
    ]
    assert [response.status_code for response in refused] == [404, 404, 404]
    with session(served.engine) as opened:
        for kind in (Comparison, Thumb, GoldAnswer):
            assert opened.exec(select(kind)).all() == []


def test_an_answer_that_stood_alone_cannot_be_compared(visitor: Visitor) -> None:
    response = vote(visitor, visitor.ask(QUESTION), choice="A")
    assert response.status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choice": "C"},
        {"choice": 1},
        {"choice": "A", "strength": "very"},
        {"choice": "A", "decision_ms": "soon"},
        {"choice": "A", "surprise": 1},
        [],
        "A",
    ],
)
def test_a_vote_that_is_none_is_a_problem_document(
    visitor: Visitor, stream: Stream, body: Any
) -> None:
    response = visitor.post(f"/api/turns/{stream.turn['turn_id']}/comparison", json=body)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == 400


def test_a_thumb_keeps_its_reason_and_comment_and_can_be_changed(
    visitor: Visitor, stream: Stream
) -> None:
    first = thumb(visitor, stream, value=-1).json()["id"]
    assert thumb(visitor, stream, value=1).status_code == 409
    changed = thumb(
        visitor, stream, value=-1, reason="Out of date", comment="since May", replaces=first
    )
    answer = shown(visitor, stream)["answers"][0]
    assert answer["thumb"] == {
        "id": changed.json()["id"],
        "value": -1,
        "reason": "Out of date",
        "comment": "since May",
    }


def test_a_correction_is_a_proposed_gold_answer(
    served: Served, visitor: Visitor, stream: Stream
) -> None:
    candidate = stream.ends["A"]["candidate_id"]
    path = f"/api/candidates/{candidate}/correction"
    assert visitor.post(path, json={"answer": " "}).status_code == 422
    response = visitor.post(path, json={"answer": "28 days"})
    assert response.status_code == 201
    with session(served.engine) as opened:
        row = opened.get_one(GoldAnswer, response.json()["id"])
    assert (row.question, row.answer, row.state) == (QUESTION, "28 days", "proposed")
    assert (row.origin, row.candidate_id) == ("correction", candidate)
    assert shown(visitor, stream)["answers"][0]["correction"] == "28 days"


def test_without_a_session_nothing_can_be_said(served: Served, stream: Stream) -> None:
    path = f"{served.url}/api/turns/{stream.turn['turn_id']}/comparison"
    response = httpx.post(path, json={"choice": "A"}, headers={"sec-fetch-site": "same-origin"})
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
