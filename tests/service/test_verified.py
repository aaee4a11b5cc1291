"""An accepted correction is shown at once for its question, and for no other."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine
from sqlmodel import col, select, update

from plugins.contract import Complete, Document
from service import verified
from service.corrections import accept, reject, withdraw_correction
from service.database import session
from service.errors import ConflictError, InvalidInputError, NotFoundError
from service.evidence import gather_demonstrations, read_sides
from service.feedback import propose_correction, record_thumb, withdraw_thumb
from service.notices import newest
from service.review import verified_answers, write_answer
from service.review_tables import Review
from service.tables import Passage, Person, Turn
from tests.service.conversations import Talk, make_talk
from tests.service.sources import Shelf

QUESTION = "How many days of leave are there?"
RIGHT = "There are 28 days of leave a year."
REVIEWER = "Grace"


def propose(talk: Talk, answer: str = RIGHT) -> str:
    with session(talk.engine) as opened:
        return propose_correction(opened, talk.person, talk.candidate_a, answer).id


def accepted(talk: Talk, answer: str = RIGHT) -> str:
    number = propose(talk, answer)
    with session(talk.engine) as opened:
        return accept(opened, number, REVIEWER).id


def shown(engine: Engine, question: str = QUESTION, *, follows: bool = False) -> str | None:
    with session(engine) as opened:
        somebody = Person(name="Bob")
        opened.add(somebody)
        opened.flush()
        found = verified.answer_for(opened, question, follows=follows)
        return found.answer if found else None


def taught(engine: Engine) -> list[str]:
    """The answers that a run would be trained on."""
    with session(engine) as opened:
        lessons = gather_demonstrations(opened, read_sides(opened, 1), passages=0)
        return [item.answer for item in lessons]


def rest_on(talk: Talk, text: str) -> Shelf:
    """Let the talk's passage be one of a real document; the shelf that syncs it."""
    shelf = Shelf()
    shelf.sync(talk.engine, Document("leave", "Leave", text), Complete())
    with session(talk.engine) as opened:
        passage = opened.exec(select(Passage)).one()
        turn = opened.get_one(Turn, talk.turn)
        stored = {"id": passage.id, "title": "Leave", "text": passage.text}
        opened.execute(
            update(Turn)
            .where(col(Turn.id) == turn.id)
            .values(prompt={**turn.prompt, "passages": [stored]})
        )
    return shelf


def test_an_accepted_correction_is_shown_for_its_question_at_once(engine: Engine) -> None:
    talk = make_talk(engine)
    number = propose(talk)
    assert shown(engine) is None
    with session(engine) as opened:
        row = accept(opened, number, REVIEWER)
    assert shown(engine) == RIGHT
    assert shown(engine, "hello, how many days of leave are there") == RIGHT
    assert shown(engine, "How many weeks of leave are there?") is None
    assert (row.by, row.question) == (REVIEWER, QUESTION)


def test_a_rejected_correction_is_never_shown(engine: Engine) -> None:
    number = propose(make_talk(engine))
    with session(engine) as opened:
        reject(opened, number, REVIEWER, "It is 25.")
    assert shown(engine) is None


def test_an_edit_is_what_is_shown_and_trained_and_the_words_before_are_kept(engine: Engine) -> None:
    number = propose(make_talk(engine))
    with session(engine) as opened:
        accept(opened, number, REVIEWER, question="How much leave is there?", answer="28 days.")
    assert shown(engine) is None
    assert shown(engine, "How much leave is there?") == "28 days."
    with session(engine) as opened:
        [lesson] = gather_demonstrations(opened, read_sides(opened, 1), passages=0)
        [decision] = opened.exec(select(Review)).all()
    assert (lesson.prompt.question, lesson.answer) == ("How much leave is there?", "28 days.")
    assert decision.details == {"before": {"question": QUESTION, "answer": RIGHT}}


def test_the_newest_verified_answer_stands(engine: Engine) -> None:
    accepted(make_talk(engine))
    accepted(make_talk(engine), "It is 30 days now.")
    assert shown(engine) == "It is 30 days now."


def test_an_answer_is_trained_on_no_longer_once_another_stands_in_its_place(engine: Engine) -> None:
    old = accepted(make_talk(engine, "What's the VPN host?"), "old.example.org")
    other = accepted(make_talk(engine), RIGHT)
    new = accepted(make_talk(engine, "What is the VPN host?"), "new.example.org")
    assert taught(engine) == [RIGHT, "new.example.org"]
    with session(engine) as opened:
        decisions = opened.exec(select(Review).where(Review.kind == "verified")).all()
        told = [(row.target_id, row.decision, row.reason, row.by) for row in decisions]
    reason = "Another answer to this question was accepted."
    assert told == [(old, "withdrawn", reason, REVIEWER)]
    with session(engine) as opened:
        assert {item.id for item in verified_answers(opened, None).items} == {other, new}


def test_an_answer_does_not_come_back_when_what_replaced_it_is_withdrawn(engine: Engine) -> None:
    accepted(make_talk(engine), "2 weeks.")
    number = accepted(make_talk(engine), "4 weeks.")
    with session(engine) as opened:
        verified.withdraw(opened, number, REVIEWER, "It depends.")
    assert shown(engine) is None
    assert taught(engine) == []


def test_a_withdrawn_answer_is_neither_shown_nor_trained_on(engine: Engine) -> None:
    number = accepted(make_talk(engine))
    with session(engine) as opened:
        verified.withdraw(opened, number, REVIEWER, "The rule changed.")
    assert shown(engine) is None
    with session(engine) as opened:
        assert gather_demonstrations(opened, read_sides(opened, 1), passages=0) == []
        with pytest.raises(ConflictError, match="withdrawn already"):
            verified.withdraw(opened, number, REVIEWER, "again")
    with session(engine) as opened, pytest.raises(ConflictError, match="withdrawn"):
        verified.confirm(opened, number, REVIEWER)
    with session(engine) as opened, pytest.raises(NotFoundError):
        verified.withdraw(opened, "nothing", REVIEWER, "why")


def test_what_its_author_takes_back_is_shown_and_trained_on_no_longer(engine: Engine) -> None:
    """Whether the reviewer accepted it as it was or edited it; and the reviewer reads why."""
    reviewer = make_talk(engine, "Who reviews?").person
    for edited in (None, "There are 28 days."):
        talk = make_talk(engine)
        number = propose(talk)
        with session(engine) as opened:
            row = accept(opened, number, REVIEWER, reviewer, answer=edited)
        assert shown(engine) == (edited or RIGHT)
        with session(engine) as opened:
            assert withdraw_correction(opened, talk.person, number).state == "withdrawn"
            withdraw_correction(opened, talk.person, number)
        assert shown(engine) is None
        with session(engine) as opened:
            assert gather_demonstrations(opened, read_sides(opened, 1), passages=0) == []
            assert verified_answers(opened, None).items == []
            verified.note_shown(opened, talk.turn, row.id)
            assert verified.shown_in(opened, [talk.turn])[talk.turn].withdrawn_at is not None
            [decision] = opened.exec(select(Review).where(Review.target_id == row.id)).all()
            assert (decision.kind, decision.decision, decision.reason) == (
                "verified",
                "withdrawn",
                "Whoever proposed this answer took it back.",
            )
    with session(engine) as opened:
        told = newest(opened, reviewer.id, 10)
    assert len(told) == 2
    assert all("took it back" in notice.text and QUESTION in notice.text for notice in told)


def test_what_was_taken_back_cannot_be_accepted(engine: Engine) -> None:
    talk = make_talk(engine)
    number = propose(talk)
    with session(engine) as opened:
        withdraw_correction(opened, talk.person, number)
    with session(engine) as opened, pytest.raises(ConflictError, match="taken back"):
        accept(opened, number, REVIEWER)
    assert shown(engine) is None


def test_what_a_reviewer_wrote_stays_when_the_report_is_taken_back(engine: Engine) -> None:
    talk, reviewer = make_talk(engine), make_talk(engine, "Who reviews?").person
    with session(engine) as opened:
        down = record_thumb(opened, talk.person, talk.candidate_a, -1)
        row = write_answer(opened, "answer", down.id, reviewer, QUESTION, RIGHT)
        withdraw_thumb(opened, talk.person, down.id)
    assert shown(engine) == RIGHT
    with session(engine) as opened:
        withdraw_correction(opened, reviewer, row.gold_answer_id)
        assert newest(opened, reviewer.id, 10) == []
    assert shown(engine) is None


def test_an_answer_is_not_shown_once_its_passage_says_otherwise(engine: Engine) -> None:
    talk = make_talk(engine)
    shelf = rest_on(talk, "Everybody has 28 days.")
    number = accepted(talk)
    assert shown(engine) == RIGHT
    shelf.sync(engine, Document("leave", "Leave", "Everybody has 30 days."), Complete())
    assert shown(engine) is None
    with session(engine) as opened:
        verified.confirm(opened, number, REVIEWER)
    assert shown(engine) == RIGHT


def test_other_edits_of_the_document_leave_it_in_force(engine: Engine) -> None:
    talk = make_talk(engine)
    shelf = rest_on(talk, "Everybody has 28 days.")
    accepted(talk)
    longer = "# Before\nNew words.\n# Leave\nEverybody has 28 days."
    shelf.sync(engine, Document("leave", "Leave", longer), Complete())
    assert shown(engine) == RIGHT


def test_nobody_is_shown_what_rests_on_a_document_they_may_not_read(engine: Engine) -> None:
    talk = make_talk(engine)
    shelf = rest_on(talk, "Everybody has 28 days.")
    accepted(talk)
    board = Document("leave", "Leave", "Everybody has 28 days.", readers=("board",))
    shelf.sync(engine, board, Complete())
    assert shown(engine) is None
    with session(engine) as opened:
        groups = ("board",)
        found = verified.answer_for(opened, QUESTION, reader_groups=groups)
        assert found is not None


def test_a_question_that_points_back_is_not_answered_in_another_conversation(
    engine: Engine,
) -> None:
    talk = make_talk(engine, "How do I reset it?")
    accepted(talk, "Hold the button.")
    assert shown(engine, "How do I reset it?") == "Hold the button."
    assert shown(engine, "How do I reset it?", follows=True) is None
    accepted(make_talk(engine))
    assert shown(engine, follows=True) == RIGHT


def test_a_follow_up_must_be_written_in_full_to_be_verified(engine: Engine) -> None:
    talk = make_talk(engine, "And how many of them are paid?")
    with session(engine) as opened:
        opened.execute(update(Turn).where(col(Turn.id) == talk.turn).values(position=1))
    number = propose(talk)
    with pytest.raises(InvalidInputError, match="in full"), session(engine) as opened:
        accept(opened, number, REVIEWER)
    with session(engine) as opened:
        accept(opened, number, REVIEWER, question="How many days of leave are paid?")
    assert shown(engine, "How many days of leave are paid?") == RIGHT


def test_a_question_of_one_word_cannot_be_verified(engine: Engine) -> None:
    number = propose(make_talk(engine, "Leave?"))
    with pytest.raises(InvalidInputError, match="too short"), session(engine) as opened:
        accept(opened, number, REVIEWER)
    with session(engine) as opened:
        accept(opened, number, REVIEWER, question=QUESTION)


def test_what_a_turn_showed_is_kept(engine: Engine) -> None:
    number = accepted(make_talk(engine))
    other = make_talk(engine)
    with session(engine) as opened:
        verified.note_shown(opened, other.turn, number)
        verified.note_shown(opened, other.turn, number)
    with session(engine) as opened:
        found = verified.shown_in(opened, [other.turn, "nothing"])
    assert {turn: row.id for turn, row in found.items()} == {other.turn: number}


def test_whoever_proposed_and_whoever_reported_are_told_once(engine: Engine) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        record_thumb(opened, talk.person, talk.candidate_a, -1)
    accepted(talk)
    accepted(talk, "There are 28.")
    with session(engine) as opened:
        told = [notice.text for notice in newest(opened, talk.person.id, 10)]
    assert len(told) == 2
    assert all("accepted" in text and QUESTION in text for text in told)


def test_a_thumb_that_was_taken_back_is_no_report(engine: Engine) -> None:
    talk, reporter = make_talk(engine), make_talk(engine)
    with session(engine) as opened:
        down = record_thumb(opened, reporter.person, reporter.candidate_a, -1)
        record_thumb(opened, reporter.person, reporter.candidate_a, 1, replaces=down.id)
    accepted(talk)
    with session(engine) as opened:
        assert newest(opened, reporter.person.id, 10) == []


def test_a_refused_correction_is_told_with_its_reason(engine: Engine) -> None:
    talk = make_talk(engine)
    number = propose(talk)
    with session(engine) as opened:
        reject(opened, number, REVIEWER, "It is 25 days in Leeds.")
    with session(engine) as opened:
        [notice] = newest(opened, talk.person.id, 10)
    assert "It is 25 days in Leeds." in notice.text
