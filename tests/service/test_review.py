"""The queue holds what waits for a reviewer, shows no more of it than needed, and empties."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import col, select, update

from service import review
from service.corrections import proposed
from service.database import session
from service.errors import InvalidInputError
from service.feedback import propose_correction, record_thumb
from service.keyset import place
from service.notices import newest, tell
from service.review_tables import Review
from service.tables import Conversation, Person, Turn, now
from service.unanswered import unanswered
from tests.service.conversations import Talk, make_talk
from tests.service.web_client import Caller, web_app

QUESTION = "How many days of leave are there?"
RIGHT = "There are 28 days of leave a year."


@pytest.fixture
def caller(engine: Engine, tmp_path: Path) -> Iterator[Caller]:
    with web_app(engine, tmp_path) as app:
        yield Caller(app)


def propose(talk: Talk, answer: str = RIGHT) -> str:
    with session(talk.engine) as opened:
        return propose_correction(opened, talk.person, talk.candidate_a, answer).id


def report(talk: Talk, **more: Any) -> str:
    with session(talk.engine) as opened:
        return record_thumb(opened, talk.person, talk.candidate_a, -1, **more).id


def leave_without_source(talk: Talk) -> None:
    with session(talk.engine) as opened:
        turn = opened.get_one(Turn, talk.turn)
        opened.execute(
            update(Turn)
            .where(col(Turn.id) == talk.turn)
            .values(prompt={**turn.prompt, "passages": []})
        )


def items(caller: Caller, queue: str, **query: str) -> list[dict[str, Any]]:
    response = caller.get(f"/api/review/{queue}", **query)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["items"]
    return found


def test_each_kind_waits_in_its_queue_and_is_counted(engine: Engine, caller: Caller) -> None:
    propose(make_talk(engine))
    report(make_talk(engine, "Where is the gym?"), reason="Wrong", comment="since May")
    leave_without_source(make_talk(engine, "Who owns the roof?"))
    waiting = caller.get("/api/review").json()
    assert waiting == {"corrections": 1, "answers": 1, "questions": 1, "most": 100}
    [correction] = items(caller, "corrections")
    assert (correction["question"], correction["proposed"]) == (QUESTION, RIGHT)
    assert (correction["answer"], correction["version"], correction["by"]) == (
        "There are 25.",
        0,
        "Ada",
    )
    assert correction["passages"] == [{"title": "Leave", "text": "Everybody has 25 days."}]
    [answer] = items(caller, "answers")
    assert (answer["question"], answer["reason"], answer["comment"]) == (
        "Where is the gym?",
        "Wrong",
        "since May",
    )
    [question] = items(caller, "questions")
    assert (question["question"], question["passages"]) == ("Who owns the roof?", [])


def test_nothing_but_question_answer_and_passages_is_shown(engine: Engine, caller: Caller) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        turn = opened.get_one(Turn, talk.turn)
        earlier = [{"question": "My salary is secret", "answer": "I see."}]
        opened.execute(
            update(Turn)
            .where(col(Turn.id) == talk.turn)
            .values(prompt={**turn.prompt, "history": earlier, "instructions": "Be sly."})
        )
    propose(talk)
    report(talk)
    for queue in ("corrections", "answers"):
        text = caller.get(f"/api/review/{queue}").text
        assert "secret" not in text
        assert "sly" not in text
        assert "Ask somebody else." not in text


def test_what_is_simulated_deleted_taken_back_or_settled_does_not_wait(
    engine: Engine, caller: Caller
) -> None:
    report(make_talk(engine, kind="simulated"))
    leave_without_source(make_talk(engine, kind="simulated"))
    deleted = make_talk(engine)
    report(deleted)
    propose(deleted)
    leave_without_source(deleted)
    taken_back = make_talk(engine)
    with session(engine) as opened:
        opened.execute(
            update(Conversation)
            .where(col(Conversation.person_id) == deleted.person.id)
            .values(deleted_at=now())
        )
        down = record_thumb(opened, taken_back.person, taken_back.candidate_a, -1)
        record_thumb(opened, taken_back.person, taken_back.candidate_a, 1, replaces=down.id)
    settled = report(make_talk(engine))
    body = {"reason": "It is right."}
    assert caller.post(f"/api/review/answers/{settled}/settle", body).status_code == 201
    assert caller.get("/api/review").json() == {
        "corrections": 0,
        "answers": 0,
        "questions": 0,
        "most": 100,
    }
    for queue in ("corrections", "answers", "questions"):
        assert items(caller, queue) == []


def test_nothing_of_a_deleted_conversation_is_told_or_decided_on(
    engine: Engine, caller: Caller
) -> None:
    """Nor by a page that was open before, whose ids a reviewer still has."""
    talk = make_talk(engine, "Who owns the secret roof?")
    correction, thumb = propose(talk), report(talk)
    leave_without_source(talk)
    with session(engine) as opened:
        [_topic] = unanswered(opened, 30).topics
        opened.execute(update(Conversation).values(deleted_at=now()))
    for queue in ("corrections", "answers", "questions", "verified"):
        assert "roof" not in caller.get(f"/api/review/{queue}").text
    body = {"question": "Who owns the secret roof?", "answer": RIGHT}
    for path, sent in (
        (f"corrections/{correction}/accept", body),
        (f"corrections/{correction}/reject", {"reason": "why"}),
        (f"answers/{thumb}/answer", body),
        (f"answers/{thumb}/settle", {}),
        (f"questions/{talk.turn}/answer", body),
        (f"questions/{talk.turn}/settle", {}),
    ):
        response = caller.post(f"/api/review/{path}", sent)
        assert (response.status_code, "roof" in response.text) == (404, False), path
    with session(engine) as opened:
        assert unanswered(opened, 30).topics == ()
        assert proposed(opened) == []


def test_a_correction_is_accepted_as_edited_and_then_verified(
    engine: Engine, caller: Caller
) -> None:
    number = propose(make_talk(engine))
    edited = {"question": QUESTION, "answer": "There are 28 days."}
    response = caller.post(f"/api/review/corrections/{number}/accept", edited)
    assert response.status_code == 201
    assert items(caller, "corrections") == []
    [shown] = items(caller, "verified")
    assert (shown["answer"], shown["by"]) == ("There are 28 days.", caller.me["name"])
    again = caller.post(f"/api/review/corrections/{number}/accept", edited)
    assert again.status_code == 409


def test_a_refusal_needs_a_reason(engine: Engine, caller: Caller) -> None:
    number = propose(make_talk(engine))
    path = f"/api/review/corrections/{number}/reject"
    assert caller.post(path, {"reason": "  "}).status_code == 422
    assert caller.post(path, {"reason": "It is 25."}).status_code == 201
    assert items(caller, "corrections") == []
    assert items(caller, "verified") == []


def test_the_right_answer_to_a_reported_one_is_verified_and_the_reporter_told(
    engine: Engine, caller: Caller
) -> None:
    talk = make_talk(engine)
    number = report(talk)
    path, body = f"/api/review/answers/{number}/answer", {"question": QUESTION, "answer": RIGHT}
    assert caller.post(path, body).status_code == 201
    assert items(caller, "answers") == []
    assert [row["answer"] for row in items(caller, "verified")] == [RIGHT]
    with session(engine) as opened:
        [notice] = newest(opened, talk.person.id, 10)
    assert "was fixed" in notice.text
    assert caller.post(path, body).status_code == 409


def test_a_question_without_a_source_is_answered_and_its_asker_told(
    engine: Engine, caller: Caller
) -> None:
    talk = make_talk(engine)
    leave_without_source(talk)
    body = {"question": QUESTION, "answer": RIGHT}
    assert caller.post(f"/api/review/questions/{talk.turn}/answer", body).status_code == 201
    assert items(caller, "questions") == []
    with session(engine) as opened:
        [notice] = newest(opened, talk.person.id, 10)
    assert "verified answer" in notice.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("answers/none/settle", {}),
        ("questions/none/settle", {}),
        ("corrections/none/accept", {"question": QUESTION, "answer": RIGHT}),
        ("corrections/none/reject", {"reason": "why"}),
        ("answers/none/answer", {"question": QUESTION, "answer": RIGHT}),
        ("nothing/none/settle", {}),
        ("verified/none/withdraw", {"reason": "why"}),
        ("verified/none/confirm", {}),
    ],
)
def test_what_does_not_wait_is_not_found(caller: Caller, path: str, body: Any) -> None:
    assert caller.post(f"/api/review/{path}", body).status_code == 404


def test_a_question_with_sources_is_not_settled_as_one_without(
    engine: Engine, caller: Caller
) -> None:
    talk = make_talk(engine)
    assert caller.post(f"/api/review/questions/{talk.turn}/settle", {}).status_code == 404


def test_a_verified_answer_is_withdrawn_with_a_reason(engine: Engine, caller: Caller) -> None:
    number = propose(make_talk(engine))
    edited = {"question": QUESTION, "answer": RIGHT}
    shown = caller.post(f"/api/review/corrections/{number}/accept", edited).json()["id"]
    assert caller.post(f"/api/review/verified/{shown}/withdraw", {}).status_code == 422
    body = {"reason": "The rule changed."}
    assert caller.post(f"/api/review/verified/{shown}/withdraw", body).status_code == 201
    assert items(caller, "verified") == []
    with session(engine) as opened:
        kept = opened.exec(select(Review).where(Review.kind == "verified")).one()
    assert (kept.decision, kept.reason) == ("withdrawn", "The rule changed.")


def test_verified_answers_are_found_by_a_part_of_them(engine: Engine, caller: Caller) -> None:
    for question, answer in ((QUESTION, RIGHT), ("Where is the gym?", "In 100% of cases: here.")):
        number = propose(make_talk(engine, question), answer)
        body = {"question": question, "answer": answer}
        caller.post(f"/api/review/corrections/{number}/accept", body)
    assert [row["answer"] for row in items(caller, "verified", words="LEAVE")] == [RIGHT]
    assert len(items(caller, "verified", words="100%")) == 1
    assert items(caller, "verified", words="%o%") == []


def test_a_long_queue_comes_in_pages(engine: Engine, caller: Caller) -> None:
    for number in range(review.PAGE + 2):
        report(make_talk(engine, f"Question {number}?"))
    first = caller.get("/api/review/answers").json()
    second = caller.get("/api/review/answers", after=first["next"]).json()
    asked = [row["question"] for row in first["items"] + second["items"]]
    assert asked == [f"Question {number}?" for number in reversed(range(review.PAGE + 2))]
    assert second["next"] is None
    assert caller.get("/api/review/answers", after="yesterday").status_code == 422
    assert caller.get("/api/review/surprises").status_code == 404


@pytest.mark.parametrize("text", ["", "~", "2026-01-01~x", "2026-01-01T00:00:00+00:00~", "x~y"])
def test_a_place_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="next"):
        place(text)


def test_only_reviewers_see_the_queue(engine: Engine, tmp_path: Path) -> None:
    with web_app(engine, tmp_path, visitors="employee") as app:
        employee = Caller(app)
        assert employee.get("/api/review").status_code == 403
        assert employee.get("/api/review/answers").status_code == 403


def test_notices_are_read_by_their_person_only(engine: Engine, tmp_path: Path) -> None:
    with web_app(engine, tmp_path, visitors="employee") as app:
        reader, other = Caller(app), Caller(app)
        with session(engine) as opened:
            person = opened.exec(select(Person).where(Person.name == reader.me["name"])).one()
            assert tell(opened, person.id, "a", "Your answer was fixed.", "/chat/1")
            assert not tell(opened, person.id, "a", "Your answer was fixed again.")
            assert tell(opened, person.id, "b", "Your votes trained a version.")
        shown = reader.get("/api/notices").json()
        assert (shown["unread"], len(shown["notices"])) == (2, 2)
        assert other.get("/api/notices").json() == {"unread": 0, "notices": []}
        number = shown["notices"][0]["id"]
        assert other.post(f"/api/notices/{number}/read").status_code == 404
        assert reader.post(f"/api/notices/{number}/read").json()["unread"] == 1
        assert reader.post("/api/notices/read").json()["unread"] == 0
