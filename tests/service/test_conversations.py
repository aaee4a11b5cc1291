"""Conversations of one's own: pages, search, branches, and what deleting one takes away."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine, text
from sqlmodel import Session, select

from service import conversation_search, conversations, feedback
from service.database import session
from service.errors import InvalidInputError, NotFoundError
from service.tables import Candidate, Conversation, GoldAnswer, Person, PolicyVersion, Turn, now
from service.voting_tables import VotePair
from tests.service.conversations import BASE, Talk, make_talk


def person(opened: Session, name: str = "Ada") -> Person:
    row = Person(name=name)
    opened.add(row)
    if opened.get(PolicyVersion, BASE) is None:
        opened.add(PolicyVersion(id=BASE, number=0, state="live"))
    opened.flush()
    return row


def conversation(opened: Session, owner: Person, title: str, minutes_ago: int = 0) -> Conversation:
    at = now() - timedelta(minutes=minutes_ago)
    row = Conversation(person_id=owner.id, title=title, created_at=at, updated_at=at)
    opened.add(row)
    opened.flush()
    return row


def turn(
    opened: Session, of: Conversation, question: str, answer: str = "", parent: Turn | None = None
) -> Turn:
    count = len(opened.exec(select(Turn.id).where(Turn.conversation_id == of.id)).all())
    row = Turn(
        conversation_id=of.id,
        position=count,
        question=question,
        parent_id=parent.id if parent else None,
    )
    opened.add(row)
    opened.flush()
    if answer:
        opened.add(
            Candidate(turn_id=row.id, version_id=BASE, text=answer, finish_reason="stop", seed=1)
        )
        opened.flush()
    return row


def found(opened: Session, owner: Person, words: str) -> list[str]:
    hits = conversation_search.search(opened, owner.id, words, None, 10)
    return [hit.conversation.title for hit in hits.rows]


def test_pages_hold_each_conversation_once_pinned_ones_first(engine: Engine) -> None:
    with session(engine) as opened:
        ada = person(opened)
        for number in range(7):
            conversation(opened, ada, f"c{number}", minutes_ago=number)
        old = conversation(opened, ada, "pinned", minutes_ago=99)
        conversations.change(opened, old, pinned=True)
        conversation(opened, person(opened, "Bob"), "not mine")
    titles, after = [], None
    with session(engine) as opened:
        while True:
            page = conversations.list_own(opened, ada, after, 3)
            titles += [row.title for row in page.rows]
            after = page.next
            if after is None:
                break
        assert titles == ["pinned", *(f"c{number}" for number in range(7))]
        with pytest.raises(InvalidInputError, match="`next` of an earlier page"):
            conversations.list_own(opened, ada, "%%%", 3)


def test_search_finds_titles_questions_and_answers_of_ones_own(engine: Engine) -> None:
    with session(engine) as opened:
        ada, bob = person(opened), person(opened, "Bob")
        leave = conversation(opened, ada, "Holidays")
        turn(opened, leave, "How many days of leave are there?", "Everybody has twenty-eight.")
        printer = conversation(opened, ada, "Printer")
        turn(opened, printer, "Where is the printer?", "On floor 6, beside the kitchen.")
        theirs = conversation(opened, bob, "Leave of Bob")
        turn(opened, theirs, "And my leave?", "None.")
    with session(engine) as opened:
        assert found(opened, ada, "leave") == ["Holidays"]
        assert found(opened, ada, "lea") == ["Holidays"]
        assert found(opened, ada, "kitchen") == ["Printer"]
        assert found(opened, ada, "holiday") == ["Holidays"]
        assert found(opened, ada, "printer kitchen") == ["Printer"]
        assert found(opened, ada, "printer leave") == []
        assert found(opened, bob, "leave") == ["Leave of Bob"]
        assert found(opened, ada, '" OR owner:* --') == []
        [hit] = conversation_search.search(opened, ada.id, "kitchen", None, 10).rows
        assert "beside the kitchen" in hit.excerpt
        assert hit.turn_id is not None


def test_a_renamed_conversation_is_found_by_its_new_name_only(engine: Engine) -> None:
    with session(engine) as opened:
        ada = person(opened)
        row = conversation(opened, ada, "Untitled things")
        conversations.change(opened, row, title="  Parking  ")
        assert row.title == "Parking"
        with pytest.raises(InvalidInputError, match="title is empty"):
            conversations.change(opened, row, title=" ")
    with session(engine) as opened:
        assert found(opened, ada, "parking") == ["Parking"]
        assert found(opened, ada, "untitled") == []


def test_search_goes_on_where_the_last_page_ended(engine: Engine) -> None:
    with session(engine) as opened:
        ada = person(opened)
        for number in range(5):
            turn(opened, conversation(opened, ada, f"c{number}"), "the same parking question")
    with session(engine) as opened:
        first = conversation_search.search(opened, ada.id, "parking", None, 2)
        second = conversation_search.search(opened, ada.id, "parking", first.next, 2)
        third = conversation_search.search(opened, ada.id, "parking", second.next, 2)
    pages = [[hit.conversation.title for hit in page.rows] for page in (first, second, third)]
    assert pages == [["c4", "c3"], ["c2", "c1"], ["c0"]]
    assert third.next is None


def test_a_new_question_follows_the_branch_that_is_shown(engine: Engine) -> None:
    with session(engine) as opened:
        ada = person(opened)
        row = conversation(opened, ada, "c")
        first = turn(opened, row, "one", "1")
        second = turn(opened, row, "two", "2", first)
        edited = turn(opened, row, "two!", "2!", first)
        assert conversations.place_turn(opened, row, None, None) == edited.id
        conversations.change(opened, row, shown_turn_id=second.id)
        assert conversations.place_turn(opened, row, None, None) == second.id
        third = turn(opened, row, "three", "3", second)
        assert conversations.place_turn(opened, row, None, None) == third.id
        assert conversations.place_turn(opened, row, None, second.id) == first.id
        assert conversations.place_turn(opened, row, edited.id, None) == edited.id
        assert conversations.place_turn(opened, row, None, first.id) is None
        told = conversations.history(opened, third.id, 2)
        assert [(item.question, item.answer) for item in told] == [("two", "2"), ("three", "3")]
        told = conversations.history(opened, edited.id, 9)
        assert [item.question for item in told] == ["one", "two!"]
        other = turn(opened, conversation(opened, ada, "d"), "x")
        with pytest.raises(NotFoundError):
            conversations.place_turn(opened, row, other.id, None)
        with pytest.raises(NotFoundError):
            conversations.change(opened, row, shown_turn_id=other.id)


@pytest.fixture
def talk(engine: Engine) -> Talk:
    made = make_talk(engine)
    made.vote_everything()
    return made


def delete(talk: Talk) -> None:
    with session(talk.engine) as opened:
        row = opened.exec(select(Conversation)).one()
        conversations.delete(opened, conversations.own_conversation(opened, talk.person, row.id))


def test_a_deleted_conversation_is_there_for_nobody(talk: Talk) -> None:
    with session(talk.engine) as opened:
        assert found(opened, talk.person, "leave") == ["How many days of leave are there?"]
    delete(talk)
    with session(talk.engine) as opened:
        row = opened.exec(select(Conversation)).one()
        assert conversations.list_own(opened, talk.person, None, 9).rows == []
        assert found(opened, talk.person, "leave") == []
        assert (
            opened.connection().execute(text("SELECT count(*) FROM conversation_search")).scalar()
            == 0
        )
        with pytest.raises(NotFoundError):
            conversations.own_conversation(opened, talk.person, row.id)
        with pytest.raises(NotFoundError):
            conversations.own_turn(opened, talk.person.id, talk.turn)
        with pytest.raises(NotFoundError):
            feedback.record_thumb(opened, talk.person, talk.candidate_b, 1)


def test_a_deleted_conversation_is_not_trained_on(talk: Talk) -> None:
    with session(talk.engine) as opened:
        assert len(feedback.current_comparisons(opened)) == 1
        assert len(feedback.current_thumbs(opened)) == 1
        feedback.propose_correction(opened, talk.person, talk.candidate_a, "There are 28.")
        opened.add(
            VotePair(
                turn_id=talk.turn,
                person_id=talk.person.id,
                pool="x",
                pairing="ordinary",
                probability=1.0,
            )
        )
    delete(talk)
    with session(talk.engine) as opened:
        assert feedback.current_comparisons(opened) == []
        assert feedback.current_thumbs(opened) == []
        assert opened.exec(select(GoldAnswer.state)).all() == ["removed"]
        assert opened.get_one(VotePair, talk.turn).state == "unusable"


def test_a_simulated_conversation_is_not_searched(engine: Engine) -> None:
    made = make_talk(engine, kind="simulated")
    with session(engine) as opened:
        assert found(opened, made.person, "leave") == []
