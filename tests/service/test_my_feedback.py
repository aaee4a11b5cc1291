"""People see all that they gave, page by page, and nobody else's; can change and withdraw it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from sqlalchemy import Engine
from sqlmodel import select

from service.ballots import Ballot
from service.database import session
from service.errors import InvalidInputError
from service.feedback import propose_correction, record_thumb
from service.my_feedback import given_feedback
from service.tables import Comparison, Conversation, Person, PolicyVersion, TrainingRun
from service.voting import vote_on_turn
from service.voting_tables import CheckVote, LearntVote, VoteOffer
from tests.service.conversations import Talk, make_talk
from tests.service.web_client import Caller, web_app


@pytest.fixture
def app(engine: Engine, tmp_path: Path) -> Iterator[Litestar]:
    with web_app(engine, tmp_path, visitors="employee", voting={"undo_s": 0}) as made:
        yield made


def talk_of(engine: Engine, caller: Caller, question: str = "How many days?") -> Talk:
    """A turn with two answers that belongs to whoever calls."""
    talk = make_talk(engine, question)
    with session(engine) as opened:
        person = opened.exec(select(Person).where(Person.name == caller.me["name"])).one()
        opened.exec(
            select(Conversation).where(Conversation.person_id == talk.person.id)
        ).one().person_id = person.id
    return Talk(engine, person, talk.turn, talk.candidate_a, talk.candidate_b)


def test_pages_hold_each_thing_once_newest_first(engine: Engine) -> None:
    mine, other = make_talk(engine), make_talk(engine)
    with session(engine) as opened:
        record_thumb(opened, mine.person, mine.candidate_a, 1)
        for number in range(7):
            propose_correction(opened, mine.person, mine.candidate_a, f"{number} days.")
        vote_on_turn(opened, mine.person, mine.turn, Ballot("A"))
        record_thumb(opened, other.person, other.candidate_a, 1)
    seen, after, sizes = [], None, []
    with session(engine) as opened:
        while True:
            page = given_feedback(opened, mine.person.id, cursor=after, limit=4)
            seen += page.items
            sizes.append(len(page.items))
            after = page.next
            if after is None:
                break
        whole = given_feedback(opened, mine.person.id, limit=50).items
        only = given_feedback(opened, mine.person.id, kinds=("thumb",)).items
        with pytest.raises(InvalidInputError, match="next"):
            given_feedback(opened, mine.person.id, cursor="yesterday")
    assert sizes == [4, 4, 1]
    assert [item.id for item in seen] == [item.id for item in whole]
    assert [item.at for item in seen] == sorted((item.at for item in seen), reverse=True)
    assert [item.kind for item in only] == ["thumb"]


def test_what_came_of_a_vote_is_told_with_it(engine: Engine) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        vote = vote_on_turn(opened, talk.person, talk.turn, Ballot("A", "much", "clearer"))
        thumb = record_thumb(opened, talk.person, talk.candidate_b, -1, comment="too short")
        opened.add(PolicyVersion(id="v7", number=7))
        opened.flush()
        opened.add(TrainingRun(id="r", folder="x", requested_by="x", reason="x", candidate_id="v7"))
        opened.flush()
        opened.add(
            LearntVote(
                kind="comparison",
                vote_id=vote.id,
                person_id=talk.person.id,
                run_id="r",
                use="trained",
            )
        )
    with session(engine) as opened:
        page = given_feedback(opened, talk.person.id, undo_s=0)
    told = {item.id: item for item in page.items}
    assert told[vote.id].came_of_it == "It helped to train version 7."
    assert (told[vote.id].strength, told[vote.id].reason) == ("much", "clearer")
    assert told[vote.id].versions == (0, 0)
    assert told[thumb.id].came_of_it == "It waits for the next training."
    assert (told[thumb.id].choice, told[thumb.id].text) == ("down", "too short")


def test_a_thumb_on_a_blind_pair_tells_no_version(engine: Engine) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        record_thumb(opened, talk.person, talk.candidate_a, 1)
        assert [item.versions for item in given_feedback(opened, talk.person.id).items] == [()]


def test_each_kind_is_changed_and_withdrawn_over_http(engine: Engine, app: Litestar) -> None:
    caller = Caller(app)
    talk = talk_of(engine, caller)
    vote = caller.post(f"/api/turns/{talk.turn}/comparison", {"choice": "skip"}).json()["id"]
    thumb = caller.post(f"/api/candidates/{talk.candidate_a}/thumb", {"value": 1}).json()["id"]
    correction = caller.post(
        f"/api/candidates/{talk.candidate_a}/correction", {"answer": "30 days."}
    ).json()["id"]
    changes = {
        f"comparisons/{vote}": {"choice": "B", "strength": "much"},
        f"thumbs/{thumb}": {"value": -1, "comment": "wrong"},
        f"corrections/{correction}": {"answer": "31 days."},
    }
    changed = {
        path.split("/")[0]: caller.put(f"/api/my/feedback/{path}", body).json()["id"]
        for path, body in changes.items()
    }
    said = {item["kind"]: item for item in caller.get("/api/my/feedback").json()["items"]}
    assert (said["comparison"]["choice"], said["thumb"]["choice"]) == ("B", "down")
    assert said["correction"]["text"] == "31 days."
    for kind, number in changed.items():
        assert caller.delete(f"/api/my/feedback/{kind}/{number}").status_code == 200
    items = caller.get("/api/my/feedback").json()["items"]
    assert [item["choice"] for item in items] == ["withdrawn"] * 3
    assert caller.get("/api/my/feedback", kind="thumb").json()["items"][0]["kind"] == "thumb"
    assert caller.get("/api/my/effects").json() == []


def test_nobody_reaches_anothers_feedback(engine: Engine, app: Litestar) -> None:
    mine, stranger = Caller(app), Caller(app)
    talk = talk_of(engine, mine)
    vote = mine.post(f"/api/turns/{talk.turn}/comparison", {"choice": "A"}).json()["id"]
    thumb = mine.post(f"/api/candidates/{talk.candidate_a}/thumb", {"value": 1}).json()["id"]
    correction = mine.post(
        f"/api/candidates/{talk.candidate_a}/correction", {"answer": "30 days."}
    ).json()["id"]
    base = "/api/my/feedback"
    answers = [
        stranger.get(f"{base}/comparisons/{vote}/reveal"),
        stranger.put(f"{base}/comparisons/{vote}", {"choice": "B"}),
        stranger.put(f"{base}/thumbs/{thumb}", {"value": -1}),
        stranger.put(f"{base}/corrections/{correction}", {"answer": "x"}),
        *(
            stranger.delete(f"{base}/{kind}")
            for kind in (f"comparisons/{vote}", f"thumbs/{thumb}", f"corrections/{correction}")
        ),
    ]
    assert [answer.status_code for answer in answers] == [404] * 7
    assert stranger.get(base).json()["items"] == []
    with session(engine) as opened:
        assert len(opened.exec(select(Comparison)).all()) == 1


def test_a_check_is_told_withdrawn_and_not_changed_like_a_vote(
    engine: Engine, app: Litestar
) -> None:
    caller = Caller(app)
    talk = talk_of(engine, caller)
    with session(engine) as opened:
        offer = VoteOffer(
            person_id=talk.person.id,
            kind="repeat",
            turn_id=talk.turn,
            first_id=talk.candidate_b,
            second_id=talk.candidate_a,
            expected="B",
            probability=0.1,
        )
        opened.add(offer)
    voted = caller.post(f"/api/vote-queue/{offer.id}", {"choice": "A"})
    assert set(voted.json()) == {"id", "undo_s"}
    path = f"/api/my/feedback/comparisons/{voted.json()['id']}"
    told = caller.get(f"{path}/reveal").json()
    assert (told["kind"], told["passed"], told["version_a"]) == ("repeat", False, None)
    assert caller.put(path, {"choice": "B"}).status_code == 409
    assert caller.delete(path).status_code == 200
    with session(engine) as opened:
        assert opened.exec(select(Comparison)).all() == []
        assert {row.choice for row in opened.exec(select(CheckVote))} == {"A", "withdrawn"}


def test_results_of_checks_are_for_reviewers(engine: Engine, app: Litestar, tmp_path: Path) -> None:
    assert Caller(app).get("/api/vote-checks").status_code == 403
    with web_app(engine, tmp_path, visitors="reviewer") as reviewed:
        assert Caller(reviewed).get("/api/vote-checks").json() == []
