"""What holds for a reward signal."""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from numbers import Real
from typing import Any

from plugins.conformance.checking import Checks, NotChecked, require
from plugins.conformance.process_state import left_alone
from plugins.conformance.signal_reading import ANSWERS, EDGES, LONG, WRITINGS, SignalSubject
from plugins.contract import Answer

LONG_ANSWER_S = 5.0
"""One answer of 100,000 characters may take this long; a rollout has hundreds of answers."""

SIGNAL_CHECKS: Checks[SignalSubject] = Checks()


@SIGNAL_CHECKS.add
def reads_a_number_or_nothing(signal: SignalSubject) -> None:
    """A reading is a number or None; no text, no truth value, no array."""
    for answer, reading in _read(signal, ANSWERS):
        _require_number(answer, reading)


@SIGNAL_CHECKS.add
def readings_are_in_range(signal: SignalSubject) -> None:
    """A reading is in [-1, 1]."""
    for answer, reading in _read(signal, ANSWERS):
        if isinstance(reading, Real) and not math.isnan(reading):
            told = f"{answer.text[:40]!r} reads {reading}; bring it into [-1, 1]"
            require(-1 <= float(reading) <= 1, told)


@SIGNAL_CHECKS.add
def no_reading_is_nan(signal: SignalSubject) -> None:
    """No reading is NaN, also where nothing can be counted; None says that."""
    for answer, reading in _read(signal, (*ANSWERS, *EDGES.values())):
        nan = isinstance(reading, float) and math.isnan(reading)
        require(not nan, f"{answer.text[:40]!r} reads NaN; answer None where nothing can be said")


@SIGNAL_CHECKS.add
def says_something(signal: SignalSubject) -> None:
    """Of answers of several kinds it reads some; one that always abstains teaches nothing."""
    answers = [*ANSWERS, *(signal.better or ())]
    readings = signal.readings(answers)
    require(
        any(reading is not None for reading in readings),
        "it abstains from all answers of the kit; give `better`, two answers that it tells apart",
    )


@SIGNAL_CHECKS.add
def same_answer_reads_the_same(signal: SignalSubject) -> None:
    """An answer has one reading: no chance, no clock; also for a fresh object."""
    first, second = signal.readings(ANSWERS), signal.readings(ANSWERS)
    _require_same(first, second, ANSWERS, "read again")


@SIGNAL_CHECKS.add
def answers_before_do_not_matter(signal: SignalSubject) -> None:
    """What was read before changes no reading."""
    made = signal.signal()
    signal.readings(ANSWERS, made)
    _require_same(
        signal.readings(ANSWERS), signal.readings(ANSWERS[::-1], made)[::-1], ANSWERS, "read later"
    )


@SIGNAL_CHECKS.add
def batch_reads_as_one_by_one(signal: SignalSubject) -> None:
    """read_batch gives each answer the reading that it has alone."""
    single = [found for answer in ANSWERS for found in _batch(signal, [answer])]
    made = signal.signal()
    if callable(getattr(made, "read", None)):
        single = signal.readings(ANSWERS, made)
    _require_same(single, _batch(signal, ANSWERS), ANSWERS, "read in a batch")


@SIGNAL_CHECKS.add
def batch_has_one_reading_each(signal: SignalSubject) -> None:
    """read_batch answers a list with one reading for each answer; none for none."""
    for answers in ((), ANSWERS[:1], ANSWERS):
        found = _batch(signal, answers)
        right = isinstance(found, list | tuple) and len(found) == len(answers)
        require(right, f"read_batch of {len(answers)} answers gave {found!r:.100}")


@SIGNAL_CHECKS.add
def order_in_a_batch_does_not_matter(signal: SignalSubject) -> None:
    """read_batch gives the same readings whatever the order of the answers."""
    there, back = _batch(signal, ANSWERS), _batch(signal, ANSWERS[::-1])
    _require_same(there, list(back)[::-1], ANSWERS, "read in another order")


@SIGNAL_CHECKS.add
def empty_answer_is_taken(signal: SignalSubject) -> None:
    """An empty answer has a reading, or none; it raises nothing."""
    for name in ("an empty answer", "an answer of white space"):
        for answer, reading in _read(signal, [EDGES[name]]):
            _require_number(answer, reading)


@SIGNAL_CHECKS.add
def answer_with_nothing_beside_is_taken(signal: SignalSubject) -> None:
    """Without passages, gold answer, feedback or question it raises nothing."""
    for answer, reading in _read(signal, list(EDGES.values())[2:]):
        _require_number(answer, reading)


@SIGNAL_CHECKS.add
def long_answer_is_read_in_time(signal: SignalSubject) -> None:
    """An answer of 100,000 characters of any kind is read within seconds."""
    made = signal.signal()
    for text in LONG:
        answer = Answer("Where do I park?", text, ANSWERS[0].passages, "Behind the house.")
        began = time.monotonic()
        (reading,) = signal.readings([answer], made)
        took = time.monotonic() - began
        _require_number(answer, reading)
        told = (
            f"{text[:10]!r}..., {len(text)} characters, took {took:.1f} s; at most {LONG_ANSWER_S}"
        )
        require(took <= LONG_ANSWER_S, told)


@SIGNAL_CHECKS.add
def every_writing_is_taken(signal: SignalSubject) -> None:
    """Any script, emoji, direction mark or piece of code is only text."""
    for text in WRITINGS:
        answers = [Answer(text, text, ANSWERS[0].passages, text), Answer("Where?", text)]
        for answer, reading in _read(signal, answers):
            _require_number(answer, reading)


@SIGNAL_CHECKS.add
def answers_are_not_changed(signal: SignalSubject) -> None:
    """An answer is the same after it was read: other signals read it too."""
    answers = copy.deepcopy(list(ANSWERS))
    signal.readings(answers)
    if callable(getattr(signal.signal(), "read_batch", None)):
        signal.signal().read_batch(answers)
    changed = [a.question for a, b in zip(answers, ANSWERS, strict=False) if a != b]
    require(len(answers) == len(ANSWERS) and not changed, f"changed the answers to {changed}")


@SIGNAL_CHECKS.add
def signals_settings_stay_as_they_are(signal: SignalSubject) -> None:
    """Reading changes nothing in the settings."""
    settings = signal.validated(signal.settings)
    before = copy.deepcopy(settings)
    signal.readings(ANSWERS, signal.cls(settings))
    require(settings == before, f"the settings changed from {before!r} to {settings!r}")


@SIGNAL_CHECKS.add
def better_answer_reads_higher(signal: SignalSubject) -> None:
    """Of two answers the better one reads higher."""
    if signal.better is None:
        raise NotChecked("give better=(GOOD, BAD), two Answers of which the first reads higher")
    good, bad = signal.readings(signal.better)
    number = isinstance(good, Real) and isinstance(bad, Real)
    require(number and good > bad, f"the better answer reads {good}, the worse one {bad}")


@SIGNAL_CHECKS.add
def abstains_where_it_cannot_tell(signal: SignalSubject) -> None:
    """Where it cannot tell, it answers None: a 0 would pull towards the middle."""
    if signal.abstains is None:
        raise NotChecked("give abstains=ANSWER, an Answer of which the signal can say nothing")
    (reading,) = signal.readings([signal.abstains])
    require(reading is None, f"reads {reading} where it cannot tell; answer None")


@SIGNAL_CHECKS.add
def signal_prints_nothing(signal: SignalSubject) -> None:
    """Nothing is printed, above all no answer."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        signal.readings(ANSWERS)
    require(not printed.getvalue(), f"printed {printed.getvalue()[:80]!r}; remove the print")


@SIGNAL_CHECKS.add
def signal_leaves_the_process_alone(signal: SignalSubject) -> None:
    """The working folder, environment and other state of the process are as they were."""
    with left_alone():
        signal.readings(ANSWERS)


def _read(signal: SignalSubject, answers: Sequence[Answer]) -> list[tuple[Answer, Any]]:
    return list(zip(answers, signal.readings(answers), strict=True))


def _batch(signal: SignalSubject, answers: Sequence[Answer]) -> Any:
    batch = getattr(signal.signal(), "read_batch", None)
    if not callable(batch):
        raise NotChecked("the class has no read_batch; read(answer) is called for each")
    return batch(list(answers))


def _require_number(answer: Answer, reading: object) -> None:
    number = isinstance(reading, Real) and not isinstance(reading, bool)
    require(
        reading is None or number,
        f"{answer.text[:40]!r} reads {reading!r:.80}, a {type(reading).__name__}; "
        "answer a float or None",
    )


def _require_same(
    first: Sequence[Any], second: Sequence[Any], answers: Sequence[Answer], how: str
) -> None:
    for answer, one, other in zip(answers, first, second, strict=True):
        same = one is other or (
            isinstance(one, Real)
            and isinstance(other, Real)
            and math.isclose(one, other, abs_tol=1e-6)
        )
        require(same, f"{answer.text[:40]!r} reads {one}, and {other} when {how}")
