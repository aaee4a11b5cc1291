"""The gate: what it passes and what it refuses, and how the service tells its rules."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from rlhf_engine.gate import MIN_QUESTIONS, Measured, decide
from rlhf_engine.plan import GatePlan
from rlhf_engine.statistics import mean_interval, win_interval
from service.gate_rules import rule_reports

GATE = GatePlan()


def by_wins(wins: int, questions: int, ties: int = 0) -> Measured:
    """A candidate that wins so many of the questions and is no worse otherwise."""
    rate, gain = win_interval(wins, ties, questions - wins - ties), mean_interval([1.0] * questions)
    return Measured(questions, rate, 40.0, 41.0, gain, 20.0, 20.0)


def by_gains(gains: list[float]) -> Measured:
    """A candidate of a run without votes, with these chrF gains."""
    gain = mean_interval(gains)
    return Measured(len(gains), None, 40.0, 40.0 + gain.value, gain, 20.0, 20.0)


@pytest.mark.parametrize(
    "measured",
    [by_wins(2, 2), by_gains([0.2, 6.0]), by_gains([3.0, 3.0]), by_wins(5, 5), by_gains([9.0] * 5)],
    ids=["all wins of 2", "two gains", "two gains alike", "all wins of 5", "five gains alike"],
)
def test_few_questions_are_refused_whatever_they_say(measured: Measured) -> None:
    report = decide(measured, GATE)
    assert not report.passed
    assert report.sentence == (
        f"Refused: it was compared on {measured.questions} held-out questions, and a verdict needs "
        "at least 6; add gold answers, hold out a larger share of them, or add a data source with "
        "purpose evaluation."
    )
    assert not rule_reports(report.figures, {})[0].passed


@pytest.mark.parametrize(
    "measured",
    [by_wins(6, 6), by_wins(27, 40, ties=1), by_gains([3.0] * 6), by_gains([1, 4, 2, 6, 3, 5])],
    ids=["all wins of 6", "most wins of 40", "gains alike", "gains that differ"],
)
def test_enough_questions_that_agree_are_passed(measured: Measured) -> None:
    report = decide(measured, GATE)
    assert report.passed, report.sentence
    rules = rule_reports(report.figures, {})
    assert [rule.passed for rule in rules] == [True, True, True]
    assert f"at least {MIN_QUESTIONS} held-out questions" in rules[0].asked


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (by_wins(6, 8), "win rate"),
        (by_wins(20, 40), "win rate"),
        (by_gains([0.1, 0.1, 0.1, 0.1, 0.1, 60.0]), "chrF gain"),
        (by_gains([0.0] * 40), "chrF gain"),
    ],
    ids=["6 wins of 8", "all ties", "one gain", "no gain"],
)
def test_what_chance_may_have_done_is_refused(measured: Measured, said: str) -> None:
    report = decide(measured, GATE)
    assert not report.passed
    assert said in report.sentence


def test_likeness_and_length_count_after_the_wins() -> None:
    won = by_wins(40, 40)
    unlike, long = replace(won, chrf_candidate=38.0), replace(won, length_candidate=41.0)
    assert "chrF against the gold answers fell" in decide(unlike, GATE).sentence
    assert "answers grew from 20 to 41 tokens" in decide(long, GATE).sentence
    assert decide(won, GATE).figures == asdict(won)
