"""Journey 1: a question is answered in a stream, and everything needed to replay it is kept."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import Engine
from sqlmodel import col, select

from service.database import session
from service.settings import Settings
from service.tables import Candidate, Conversation, Turn
from tests.journeys.conftest import LEAVE
from tests.journeys.server import Served, eventually, serving

QUESTION = "How many days of annual leave do I have?"


def candidates(engine: Engine, turn_id: str) -> list[Candidate]:
    with session(engine) as opened:
        rows = select(Candidate).where(Candidate.turn_id == turn_id)
        return list(opened.exec(rows.order_by(col(Candidate.side))))


def test_an_answer_streams_and_is_stored_as_it_was_shown(served: Served) -> None:
    stream = served.visitor().ask(QUESTION)
    assert stream.last == "done"
    assert stream.turn["sides"] == [""]
    assert stream.turn["version"] == 0
    assert [passage["text"] for passage in stream.turn["passages"]] == [LEAVE]
    (stored,) = candidates(served.engine, stream.turn["turn_id"])
    assert stored.id == stream.ends[""]["candidate_id"]
    assert stored.text == stream.ends[""]["text"]
    assert stored.text == stream.pieces[""].replace("\x00", "\ufffd")
    assert stored.finish_reason in ("stop", "length")
    assert 0 < len(stored.token_ids) <= 24
    assert stored.first_token_ms is not None
    assert stored.total_ms is not None
    assert stored.first_token_ms <= stored.total_ms
    drawn = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 24}
    assert stored.settings == {**drawn, "stop": [], "top_logprobs": 0}


def test_the_turn_keeps_the_prompt_as_it_was_rendered(served: Served) -> None:
    stream = served.visitor().ask(QUESTION)
    with session(served.engine) as opened:
        turn = opened.get_one(Turn, stream.turn["turn_id"])
    assert turn.question == QUESTION
    assert turn.prompt["question"] == QUESTION
    assert turn.prompt["passages"][0]["title"] == "Annual leave: How much"
    assert not turn.compared


def test_a_second_question_sees_the_first_exchange(served: Served) -> None:
    visitor = served.visitor()
    first = visitor.ask(QUESTION)
    conversation = first.turn["conversation_id"]
    second = visitor.ask("And when do they end?", conversation_id=conversation)
    assert second.turn["conversation_id"] == conversation
    with session(served.engine) as opened:
        turn = opened.get_one(Turn, second.turn["turn_id"])
    assert turn.position == 1
    (exchange,) = turn.prompt["history"]
    assert exchange == {"question": QUESTION, "answer": first.ends[""]["text"]}


def test_two_answers_stream_side_by_side_with_their_sides_recorded(served: Served) -> None:
    stream = served.visitor().ask(QUESTION, compare=True)
    assert stream.turn["sides"] == ["A", "B"]
    first, second = candidates(served.engine, stream.turn["turn_id"])
    assert (first.side, second.side) == ("A", "B")
    assert first.seed != second.seed
    assert {"A": first.text, "B": second.text} == {
        side: end["text"] for side, end in stream.ends.items()
    }


def test_both_answers_advance_together(served: Served) -> None:
    sides = [
        data["side"]
        for name, data in served.visitor().events(QUESTION, compare=True)
        if name == "token"
    ]
    assert set(sides[:4]) == {"A", "B"}


def test_a_conversation_is_shown_to_its_owner_only(served: Served) -> None:
    owner, other = served.visitor(), served.visitor()
    stream = owner.ask(QUESTION)
    path = f"/api/conversations/{stream.turn['conversation_id']}"
    shown = owner.get(path).json()
    assert shown["turns"][0]["question"] == QUESTION
    assert shown["turns"][0]["answers"][0]["text"] == stream.ends[""]["text"]
    listed = owner.get("/api/conversations").json()["conversations"]
    assert [row["id"] for row in listed] == [shown["id"]]
    assert other.get(path).status_code == 404
    assert other.get("/api/conversations").json()["conversations"] == []
    refused = other.post("/api/ask", json={"question": "mine?", "conversation_id": shown["id"]})
    assert refused.status_code == 404


@pytest.mark.parametrize("question", ["", "  \n ", "a" * 4001, "nul \x00 inside"])
def test_what_is_no_question_is_refused_before_anything_is_stored(
    served: Served, question: str
) -> None:
    response = served.visitor().post("/api/ask", json={"question": question})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"].startswith("question ")
    with session(served.engine) as opened:
        assert opened.exec(select(Conversation)).first() is None


@pytest.mark.usefixtures("handbook")
def test_an_asker_who_leaves_ends_the_answer_and_what_was_written_is_kept(
    make_settings: Callable[..., Settings], engine: Engine
) -> None:
    limits = {"max_new_tokens": 800, "reconnect_s": 0}
    with serving(make_settings(answers=limits), engine) as served:
        visitor = served.visitor()
        turn_id, heard, ended = "", {"A": "", "B": ""}, set()
        for name, data in visitor.events(QUESTION, compare=True):
            if name == "turn":
                turn_id = data["turn_id"]
            elif name == "token":
                heard[data["side"]] += data["text"]
            elif name == "end":
                ended.add(data["side"])
            if all(text.strip() or side in ended for side, text in heard.items()):
                break
        assert len(ended) < 2, "both answers ended at once; choose another seed of the base policy"
        rows = eventually(lambda: len(found := candidates(engine, turn_id)) == 2 and found)
        for row in rows:
            assert row.text.startswith(heard[row.side].strip().replace("\x00", "\ufffd"))
        assert "cancelled" in {row.finish_reason for row in rows}

        def leases() -> int:
            versions = visitor.get("/api/policies").json()["versions"]
            return sum(version["leases"] for version in versions)

        eventually(lambda: leases() == 0)


@pytest.mark.usefixtures("handbook")
def test_the_page_is_there_before_the_base_policy_is(
    make_settings: Callable[..., Settings], engine: Engine
) -> None:
    settings = make_settings(base_policy="not a hub name")
    with serving(settings, engine, until_ready=False) as served:
        assert httpx.get(served.url).status_code == 200
        eventually(
            lambda: "cannot be loaded" in (served.visitor().get("/api/me").json()["waits_for"])
        )
        ready = httpx.get(f"{served.url}/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert httpx.get(f"{served.url}/health/live").status_code == 200
        refused = served.visitor().post("/api/ask", json={"question": QUESTION})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        assert "base policy" in refused.json()["detail"]
