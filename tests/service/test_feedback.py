"""A vote is one person's word on their own answer, given once and changed in the open."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from service.ballots import Ballot
from service.database import session
from service.errors import ConflictError, InvalidInputError, NotFoundError
from service.feedback import (
    current_comparisons,
    current_thumbs,
    propose_correction,
    record_thumb,
)
from service.tables import Comparison, GoldAnswer, Person, Thumb
from service.voting import vote_on_turn
from tests.service.conversations import make_talk


def test_a_comparison_is_kept_with_its_sides(engine: Engine) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        vote_on_turn(opened, talk.person, talk.turn, Ballot("B", "much", decision_ms=4200))
    with session(engine) as opened:
        row = opened.exec(select(Comparison)).one()
    assert (row.candidate_a_id, row.candidate_b_id) == (talk.candidate_a, talk.candidate_b)
    assert (row.choice, row.strength, row.decision_ms) == ("B", "much", 4200)
    assert (row.person_id, row.simulated) == (talk.person.id, False)


def test_votes_of_a_simulated_person_are_labelled(engine: Engine) -> None:
    talk = make_talk(engine, kind="simulated")
    with session(engine) as opened:
        assert vote_on_turn(opened, talk.person, talk.turn, Ballot("tie")).simulated
        assert record_thumb(opened, talk.person, talk.candidate_a, 1).simulated


def test_a_second_vote_is_refused_with_the_way_to_change_it(engine: Engine) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        vote_on_turn(opened, talk.person, talk.turn, Ballot("A"))
        record_thumb(opened, talk.person, talk.candidate_a, 1)
    with session(engine) as opened:
        with pytest.raises(ConflictError, match="`replaces`"):
            vote_on_turn(opened, talk.person, talk.turn, Ballot("B"))
        with pytest.raises(ConflictError, match="`replaces`"):
            record_thumb(opened, talk.person, talk.candidate_a, -1)
    with session(engine) as opened:
        assert [row.choice for row in current_comparisons(opened)] == ["A"]
        assert [row.value for row in current_thumbs(opened)] == [1]


def test_a_changed_mind_replaces_the_vote_in_force(engine: Engine) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        first = vote_on_turn(opened, talk.person, talk.turn, Ballot("A"))
        second = vote_on_turn(opened, talk.person, talk.turn, Ballot("B"), replaces=first.id)
        up = record_thumb(opened, talk.person, talk.candidate_a, 1)
        down = record_thumb(opened, talk.person, talk.candidate_a, -1, "wrong", replaces=up.id)
    with session(engine) as opened:
        assert [row.id for row in current_comparisons(opened)] == [second.id]
        assert [row.id for row in current_thumbs(opened)] == [down.id]
        assert len(opened.exec(select(Comparison)).all()) == 2
        with pytest.raises(ConflictError, match="replaced already"):
            vote_on_turn(opened, talk.person, talk.turn, Ballot("tie"), replaces=first.id)


def test_only_ones_own_vote_on_the_same_thing_can_be_replaced(engine: Engine) -> None:
    mine, other = make_talk(engine), make_talk(engine)
    with session(engine) as opened:
        theirs = vote_on_turn(opened, other.person, other.turn, Ballot("A"))
        thumb = record_thumb(opened, mine.person, mine.candidate_b, 1)
        for replaces in (theirs.id, "no such vote"):
            with pytest.raises(NotFoundError, match="could be replaced"):
                vote_on_turn(opened, mine.person, mine.turn, Ballot("B"), replaces=replaces)
        with pytest.raises(NotFoundError, match="could be replaced"):
            record_thumb(opened, mine.person, mine.candidate_a, 1, replaces=thumb.id)


def test_of_many_votes_at_once_one_counts(engine: Engine) -> None:
    talk = make_talk(engine)
    refused: list[ConflictError] = []

    def vote() -> None:
        try:
            with session(engine) as opened:
                vote_on_turn(opened, talk.person, talk.turn, Ballot("A"))
        except ConflictError as error:
            refused.append(error)

    voters = [threading.Thread(target=vote) for _ in range(5)]
    for voter in voters:
        voter.start()
    for voter in voters:
        voter.join()
    with session(engine) as opened:
        assert len(opened.exec(select(Comparison)).all()) == 1
    assert len(refused) == 4


def test_nobody_votes_on_somebody_elses_answers(engine: Engine) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        stranger = Person(name="Eve", role="operator")
        opened.add(stranger)
        opened.flush()
        with pytest.raises(NotFoundError):
            vote_on_turn(opened, stranger, talk.turn, Ballot("A"))
        with pytest.raises(NotFoundError):
            record_thumb(opened, stranger, talk.candidate_a, 1)
        with pytest.raises(NotFoundError):
            propose_correction(opened, stranger, talk.candidate_a, "25 days.")
        assert opened.exec(select(Thumb)).all() == []
        assert opened.exec(select(GoldAnswer)).all() == []


@pytest.mark.parametrize(
    ("choice", "strength", "said"),
    [
        ("a", None, "choice is 'a'"),
        ("", None, "choice is ''"),
        ("A", "very", "strength is 'very'"),
        ("tie", "much", "belongs to a choice of A or B"),
    ],
)
def test_a_choice_that_is_none_is_refused(
    engine: Engine, choice: str, strength: str | None, said: str
) -> None:
    talk = make_talk(engine)
    with session(engine) as opened, pytest.raises(InvalidInputError, match=said):
        vote_on_turn(opened, talk.person, talk.turn, Ballot(choice, strength))


def test_a_turn_with_one_answer_cannot_be_compared(engine: Engine) -> None:
    talk = make_talk(engine, answers=("There are 25.",))
    with session(engine) as opened, pytest.raises(InvalidInputError, match="not two to compare"):
        vote_on_turn(opened, talk.person, talk.turn, Ballot("A"))


def test_a_stopped_answer_cannot_be_compared(engine: Engine) -> None:
    talk = make_talk(engine, finish_reason="cancelled")
    with session(engine) as opened, pytest.raises(InvalidInputError, match="was stopped"):
        vote_on_turn(opened, talk.person, talk.turn, Ballot("A"))


def test_a_decision_time_from_a_wrong_clock_is_bounded(engine: Engine) -> None:
    talk, other = make_talk(engine), make_talk(engine)
    with session(engine) as opened:
        assert (
            vote_on_turn(opened, talk.person, talk.turn, Ballot("A", decision_ms=-5)).decision_ms
            == 0
        )
        row = vote_on_turn(opened, other.person, other.turn, Ballot("A", decision_ms=2**60))
        assert row.decision_ms == 24 * 60 * 60 * 1000


def test_a_thumb_keeps_reason_and_comment(engine: Engine) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        record_thumb(opened, talk.person, talk.candidate_a, -1, "outdated", "  It is 30 now. ")
        record_thumb(opened, talk.person, talk.candidate_b, 1, "", "  ")
    with session(engine) as opened:
        rows = {row.candidate_id: (row.reason, row.comment) for row in current_thumbs(opened)}
    assert rows == {
        talk.candidate_a: ("outdated", "It is 30 now."),
        talk.candidate_b: (None, None),
    }


def test_a_thumb_is_up_or_down(engine: Engine) -> None:
    talk = make_talk(engine)
    with session(engine) as opened, pytest.raises(InvalidInputError, match="it must be 1"):
        record_thumb(opened, talk.person, talk.candidate_a, 0)


def test_a_correction_waits_for_acceptance(engine: Engine) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        propose_correction(opened, talk.person, talk.candidate_a, " 30 days since March. ")
    with session(engine) as opened:
        row = opened.exec(select(GoldAnswer)).one()
    assert (row.state, row.origin) == ("proposed", "correction")
    assert row.question == "How many days of leave are there?"
    assert (row.answer, row.author) == ("30 days since March.", "Ada")
    assert (row.person_id, row.candidate_id) == (talk.person.id, talk.candidate_a)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("", "is empty"),
        (" \n\t ", "is empty"),
        ("x" * 8_001, "at most 8000"),
        ("25\x00 days", "is no text"),
        ("25 \ud800 days", "is no text"),
    ],
)
def test_a_text_that_cannot_be_kept_is_refused(engine: Engine, answer: str, said: str) -> None:
    talk = make_talk(engine)

    def refused(record: Callable[[], object]) -> None:
        with pytest.raises(InvalidInputError, match=said):
            record()

    with session(engine) as opened:
        refused(lambda: propose_correction(opened, talk.person, talk.candidate_a, answer))
        assert opened.exec(select(GoldAnswer)).all() == []
