"""Which questions are taken, and when a refused one is told to come again: no engine, no clock."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from rlhf_engine.answer_events import EngineStats
from service.admission import Admission
from service.errors import OverloadedError, TooManyTurnsError
from service.pace import Arrival, Pace
from service.serving import NotReadyError, Serving
from service.settings import AnswerSettings

IDLE = EngineStats(True, "float32", 0, 0, 0, 0, 0, 0, {}, slots=16)
FULL = replace(IDLE, active=16, taken=16)


class Loaded:
    """A serving whose engine is in the state that a test says."""

    trouble: str | None = None

    def __init__(self) -> None:
        self.now = IDLE

    def stats(self) -> EngineStats:
        return self.now


@pytest.fixture
def loaded() -> Loaded:
    return Loaded()


def admission_of(loaded: Loaded, **limits: float) -> Admission:
    """Admission that promises a first token within twice what is normal, unless told otherwise."""
    given = AnswerSettings(**{"slowest_first_token": 2.0, **limits})  # type: ignore[arg-type]
    return Admission(given, cast("Serving", loaded))


def learned(loaded: Loaded, first_s: float, busy_s: float, **limits: float) -> Admission:
    admission = admission_of(loaded, **limits)
    admission.learn(first_s, busy_s, Arrival(calm=True, ahead=0))
    return admission


def test_before_anything_is_known_only_the_bound_of_the_queue_counts(loaded: Loaded) -> None:
    admission = admission_of(loaded, max_waiting=3)
    loaded.now = replace(FULL, waiting=2, taken=18)
    admission.check()
    loaded.now = replace(FULL, waiting=3, taken=19)
    with pytest.raises(OverloadedError, match="3 questions wait already") as refused:
        admission.check()
    assert refused.value.retry_after_s == 5


def test_where_there_is_room_a_question_is_taken_however_slow_answers_are(loaded: Loaded) -> None:
    admission = learned(loaded, 0.01, 600.0)
    loaded.now = replace(FULL, taken=15, active=15)
    admission.check()


def test_a_question_that_would_wait_is_taken_only_for_a_first_token_soon_enough(
    loaded: Loaded,
) -> None:
    """16 answers of 16 s each: one ends a second, on average."""
    loaded.now = FULL
    learned(loaded, 1.0, 15.0).check()
    with pytest.raises(OverloadedError, match="as can be at once"):
        learned(loaded, 0.9, 15.1).check()
    learned(loaded, 0.9, 15.1, slowest_first_token=2.2).check()
    loaded.now = replace(FULL, waiting=1, taken=17)
    with pytest.raises(OverloadedError, match="1 questions wait already") as refused:
        learned(loaded, 1.0, 15.0).check()
    assert refused.value.retry_after_s == 2


def test_a_turn_of_many_answers_is_waited_for_to_its_end(loaded: Loaded) -> None:
    loaded.now = replace(IDLE, active=1, taken=16)
    admission = learned(loaded, 0.5, 9.5)
    with pytest.raises(OverloadedError) as refused:
        admission.check()
    assert refused.value.retry_after_s == 10
    # Eight turns of two: one of them ends in an eighth of the time of a turn.
    loaded.now = replace(IDLE, active=8, taken=16)
    with pytest.raises(OverloadedError) as refused:
        admission.check(answers=3)
    assert refused.value.retry_after_s == 3


def test_long_prompts_that_are_read_ahead_count_too(loaded: Loaded) -> None:
    admission = learned(loaded, 1.0, 1.0)
    loaded.now = replace(IDLE, taken=1, active=1, reading=1)
    admission.check()
    loaded.now = replace(IDLE, taken=2, active=2, reading=2)
    with pytest.raises(OverloadedError):
        admission.check()
    loaded.now = replace(IDLE, taken=1, active=1, reading=1)
    with admission.preparing(1), pytest.raises(OverloadedError):
        admission.check()


def test_a_few_who_ask_at_the_same_moment_are_all_taken_by_default(loaded: Loaded) -> None:
    default = AnswerSettings().slowest_first_token
    admission = learned(loaded, 1.0, 1.0, slowest_first_token=default)
    for reading in range(4):
        loaded.now = replace(IDLE, taken=reading, active=reading, reading=reading)
        admission.check()
    loaded.now = replace(IDLE, taken=4, active=4, reading=4)
    with pytest.raises(OverloadedError):
        admission.check()


def test_questions_on_their_way_to_the_engine_take_room(loaded: Loaded) -> None:
    admission = learned(loaded, 0.01, 10.0)
    loaded.now = replace(IDLE, taken=14, active=14)
    with admission.preparing(1):
        admission.check()
        with pytest.raises(OverloadedError):
            admission.check(answers=2)
        with admission.preparing(1), pytest.raises(OverloadedError):
            admission.check()
    admission.check(answers=2)


def test_more_answers_than_the_engine_draws_at_once_wait_for_no_more_than_all_of_it(
    loaded: Loaded,
) -> None:
    admission = learned(loaded, 0.01, 10.0)
    loaded.now = replace(IDLE, slots=1)
    admission.check(answers=2)


def test_what_is_normal_is_learned_at_calm_times_only(loaded: Loaded) -> None:
    admission = admission_of(loaded)
    assert admission.enter("a", 1) == Arrival(calm=True, ahead=0)
    loaded.now = replace(IDLE, taken=9, active=9, reading=2)
    assert admission.enter("b", 1) == Arrival(calm=False, ahead=2)
    loaded.now = FULL
    assert admission.enter("c", 1) == Arrival(calm=False, ahead=None)
    pace = Pace()
    pace.learn(1.0, 15.0, Arrival(calm=True, ahead=0))
    for _ in range(100):
        pace.learn(50.0, 15.0, Arrival(calm=False, ahead=None))
    assert pace.turn_s() == pytest.approx(16.0)
    pace.learn(2.0, 15.0, Arrival(calm=True, ahead=0))
    assert pace.turn_s() == pytest.approx(16.2)


def test_questions_that_come_together_do_not_change_what_is_normal(loaded: Loaded) -> None:
    admission = learned(loaded, 1.0, 1.0)
    for _ in range(50):
        admission.learn(3.0, 1.0, Arrival(calm=True, ahead=2))
    loaded.now = replace(IDLE, taken=2, active=2, reading=2)
    with pytest.raises(OverloadedError):
        admission.check()


def test_a_busy_engine_that_reads_slowly_takes_fewer_at_once(loaded: Loaded) -> None:
    admission = learned(loaded, 1.0, 1.0)
    busy, slow = replace(IDLE, taken=12, active=12, reading=1), Arrival(calm=False, ahead=1)
    loaded.now = busy
    admission.check()
    for _ in range(50):
        admission.learn(6.0, 1.0, slow)
    # Each prompt takes 3 s now: the second of two would be later than twice what is normal.
    with pytest.raises(OverloadedError):
        admission.check()
    loaded.now = replace(busy, reading=0)
    admission.check()
    # Half free, it is believed to be as quick as normally, and a slow hour is forgotten.
    loaded.now = replace(busy, taken=8, active=8)
    admission.check()
    for _ in range(50):
        admission.learn(0.5, 1.0, Arrival(calm=False, ahead=0))
    loaded.now = busy
    admission.check()


def test_one_person_has_their_share_until_a_turn_is_over(loaded: Loaded) -> None:
    admission = learned(loaded, 1.0, 6.5, max_per_person=1)
    admission.enter("a", 1)
    admission.check("b")
    with pytest.raises(TooManyTurnsError, match="1 of your questions") as refused:
        admission.enter("a", 1)
    assert refused.value.retry_after_s == 8
    admission.leave("a")
    admission.enter("a", 1)


def test_nothing_is_taken_before_the_engine_is_there_and_after_the_end(loaded: Loaded) -> None:
    admission = admission_of(loaded)
    loaded.trouble = "the base policy is still loading"
    with pytest.raises(NotReadyError, match="still loading"):
        admission.check()
    loaded.trouble, admission.closed = None, True
    with pytest.raises(NotReadyError, match="stopping"):
        admission.check()
