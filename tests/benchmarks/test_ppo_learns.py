"""The table and verdict of ppo_learns, tried without learning for long."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.benchmarks import ppo_learns
from tests.benchmarks.ppo_learns_company import company_questions, preferred
from tests.benchmarks.ppo_learns_control import Match, win_rate
from tests.benchmarks.ppo_learns_preference import SCALES, Arms, Preference
from tests.benchmarks.ppo_learns_tiny import Outcome
from tests.benchmarks.seed_interval import seed_interval
from tests.tiny import tiny_base


def test_a_policy_that_hardly_learnt_misses_the_goal(capsys: pytest.CaptureFixture[str]) -> None:
    assert ppo_learns.main(["--size", "tiny", "--seeds", "1", "--batches", "1"]) == 1
    printed = capsys.readouterr().out
    assert "THE GOAL IS MISSED" in printed
    assert "rloo" in printed


def test_the_goal_is_nine_tenths_of_the_reachable(capsys: pytest.CaptureFixture[str]) -> None:
    good, poor = Outcome(0, 0.1, 0.73, 0.8), Outcome(1, 0.1, 0.6, 0.8)
    assert good.share == pytest.approx(0.9125)
    assert ppo_learns.print_climb({"ppo": [good], "rloo": [good]})
    assert not ppo_learns.print_climb({"ppo": [good], "rloo": [good, poor]})


def test_seed_interval_is_students() -> None:
    interval = seed_interval([1.0, 2.0, 3.0])
    assert interval.value == 2.0
    assert interval.upper - interval.value == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert seed_interval([5.0]).upper == math.inf


def test_the_preference_runs_from_sft_to_win_rates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_base(tmp_path / "base")
    options = ["--scale", "tiny", "--seeds", "1", "--base", str(base), "--dtype", "float32"]
    ppo_learns.main(["--size", "smollm2", "--threads", "1", *options])
    printed = capsys.readouterr().out
    for line in ("ppo to sft", "best_of_n to sft", "ppo to best_of_n"):
        assert line in printed


def test_best_of_n_gets_no_fewer_tokens(tmp_path: Path) -> None:
    world = Preference(tmp_path, tiny_base(tmp_path / "base"), SCALES["tiny"], "float32", 1)
    world.learn_rewards()
    arms = world.tune(seed=0)
    assert arms.tokens["best_of_n"] >= 0.9 * arms.tokens["ppo"]
    assert {len(found) for found in arms.answers.values()} == {len(arms.questions)}
    assert all(match.won == 0.5 for match in arms.matches("sft", "sft"))


def test_the_hidden_preference() -> None:
    gold = "Reception opens at eight."
    assert preferred(("Reception opens at eight.", "No idea whatsoever."), gold) == "a"
    assert preferred(("No idea whatsoever.", "Reception opens at eight."), gold) == "b"
    assert preferred(("Yes.", "Yes."), gold) == "tie"
    assert preferred(("zzz zzz zzz zzz", "zzz zzz"), gold) == "b"


def test_scores_agree_with_the_hidden_preference_within_questions_alone() -> None:
    """The one question's answers are all scored higher, which says nothing of the preference."""
    first, second = company_questions(exam=0, train=2)
    answers = [first.answer, "No idea.", second.answer, "No idea whatsoever."]

    def agreement(scores: list[float]) -> float:
        arms = Arms(0, [first, second], {"sft": answers}, {"sft": scores}, {}, {})
        return arms.agreement("sft")

    assert agreement([2.0, 1.0, 12.0, 11.0]) > 0.95
    assert agreement([1.0, 2.0, 11.0, 12.0]) < -0.95
    assert agreement([1.0, 1.0, 9.0, 9.0]) == 0.0


def test_a_passage_fits_its_question() -> None:
    asked = [item.prompt for item in company_questions(exam=0, train=200)]
    leeds = next(each for each in asked if each.question == "When does reception in Leeds close?")
    assert "Leeds" in leeds.passages[0].title + leeds.passages[0].text


def test_a_win_by_length_alone_is_no_win_at_equal_length() -> None:
    """The longer answer wins with 80%; the one policy is longer in three of four matches."""
    matches = [
        Match(0, f"p{at}", float((at % 10 < 8) == (at % 4 > 0)), 5.0 if at % 4 else -5.0)
        for at in range(400)
    ]
    rate = win_rate(matches, rounds=50)
    assert rate.plain.value > 0.6
    assert rate.controlled.lower < 0.5 < rate.controlled.upper
    assert rate.longer == 2.5


def test_a_win_at_equal_length_counts_whole() -> None:
    matches = [Match(seed, f"p{at}", float(at % 4 > 0), 0.0) for seed in (0, 1) for at in range(80)]
    rate = win_rate(matches, rounds=100)
    assert rate.controlled.value == pytest.approx(0.75, abs=0.01)
    assert 0.6 < rate.controlled.lower < 0.75 < rate.controlled.upper < 0.9
