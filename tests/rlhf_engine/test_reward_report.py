"""The report on a reward model: by question and by time, sliced, beside the length rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from rlhf_engine.plan import RunPlan
from rlhf_engine.records import Comparison, Outcome, Prompt
from rlhf_engine.reward_model import RewardModel
from rlhf_engine.reward_report import measure
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.stage import Stage
from tests.rlhf_engine.reward_runs import of_votes


class Lengths:
    """Stands in for a reward model: two heads, which both like long answers, the second less."""

    deviation = torch.ones(2, 1)

    def text_scores(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *_: Any, **__: Any
    ) -> torch.Tensor:
        assert len(answers) == 2 * len(prompts)
        lengths = torch.tensor([float(len(answer)) for answer in answers])
        return torch.stack([lengths - 8, lengths / 2 - 4])

    log_odds = RewardModel.log_odds


def vote(
    number: int, outcome: Outcome = "a", *, longer: str = "a", split: str = "held_out", **more: Any
) -> Comparison:
    """A vote on an answer of 16 letters and one of 4; `longer` says which is the long one."""
    answers = ("l" * 16, "s" * 4) if longer == "a" else ("s" * 4, "l" * 16)
    prompt = Prompt(f"p{number}", f"Question {number}?", split=cast(Any, split))
    item = Comparison(f"c{number}", prompt, *answers, outcome, rater=f"r{number}")
    return replace(item, **more)


def report(tmp_path: Path, votes: Sequence[Comparison]) -> dict[str, Any]:
    stage = Stage("reward_model", RunFolder(tmp_path), RunPlan(base="x"), "float32")
    return measure(cast(RewardModel, Lengths()), of_votes(votes), stage)


def test_accuracy_is_of_held_out_votes_with_a_clear_choice(tmp_path: Path) -> None:
    votes = [
        *(vote(n) for n in range(6)),
        *(vote(n, "b") for n in range(6, 8)),
        vote(8, "tie"),
        vote(9, split="train"),
        vote(0),
    ]
    found = report(tmp_path, votes)
    assert (found["held_out"], found["accuracy"]) == (8, 0.75)
    low, high = found["accuracy_interval"]
    assert 0 < low < 0.75 < high < 1
    assert found["longer_wins_accuracy"] == 0.75


def test_every_slice_adds_up(tmp_path: Path) -> None:
    votes = [
        vote(0, source="handbook"),
        vote(1, "b", source="handbook"),
        vote(2, longer="b", simulated=True),
        vote(2, longer="b", rater="another"),
        vote(3, rater="x"),
        vote(3, "b", rater="y"),
        vote(4, answer_a="l" * 16, answer_b="k" * 15),
    ]
    slices = report(tmp_path, votes)["slices"]
    assert {name: sum(part["pairs"] for part in by.values()) for name, by in slices.items()} == {
        "source": 7,
        "votes": 7,
        "length": 7,
        "agreement": 7,
    }
    assert slices["source"]["handbook"]["accuracy"] == 0.5
    assert slices["votes"]["simulated"] == {
        "pairs": 1,
        "accuracy": 0.0,
        "accuracy_interval": slices["votes"]["simulated"]["accuracy_interval"],
    }
    assert slices["length"]["longer chosen"]["accuracy"] == 1.0
    assert slices["length"]["shorter chosen"]["accuracy"] == 0.0
    assert slices["length"]["alike"]["pairs"] == 1
    assert {name: part["pairs"] for name, part in slices["agreement"].items()} == {
        "agreed": 2,
        "contested": 2,
        "one rater": 3,
    }


def test_the_newest_policys_own_pairs_are_measured_apart(tmp_path: Path) -> None:
    old = [vote(n, rated_at=f"2026-01-0{n + 1}", versions=("v1", "v1")) for n in range(5)]
    mixed = vote(5, "b", rated_at="2026-01-07", versions=("v1", "v2"))
    own = vote(6, rated_at="2026-01-08", versions=("v2", "v2"))
    found = report(tmp_path, [own, *old, mixed])
    assert found["newest_policy"] == "v2"
    assert (found["newest_policy_pairs"], found["newest_policy_accuracy"]) == (1, 1.0)
    # The newest fifth of seven votes are two of them; one is right.
    assert (found["newest_votes"], found["newest_votes_accuracy"]) == (2, 0.5)


def test_the_newest_policy_may_have_no_held_out_pairs(tmp_path: Path) -> None:
    trained = vote(1, split="train", rated_at="2026-02-01", versions=("v2", "v2"))
    found = report(tmp_path, [vote(0, versions=("v1", "v1")), trained])
    assert (found["newest_policy"], found["newest_policy_pairs"]) == ("v2", 0)
    assert found["newest_policy_accuracy_interval"] == [0.0, 1.0]


def test_heads_that_differ_in_size_spread_but_agree(tmp_path: Path) -> None:
    found = report(tmp_path, [vote(0)])
    # Scores (8, -4) and (4, -2): half the difference of the heads, averaged over both answers.
    assert found["heads_spread"] == pytest.approx((2 + 1) / 2)
    assert found["heads_agree"] == 1.0


def test_temperature_scaling_mends_a_model_too_sure_of_itself(tmp_path: Path) -> None:
    votes = [vote(n, "b" if n % 10 < 3 else "a") for n in range(200)]
    found = report(tmp_path, votes)
    # Always sure of the longer answer, right in 7 of 10: the error is 0.3.
    assert found["ece_before"] == pytest.approx(0.3, abs=0.01)
    low, high = found["ece_before_interval"]
    assert low < found["ece_before"] < high
    assert found["temperature"] > 5
    assert found["ece_after"] < 0.1


def test_answers_called_bad_are_counted_by_their_scores(tmp_path: Path) -> None:
    found = report(tmp_path, [vote(0), vote(1, "both_bad")])
    assert (found["both_bad_held_out"], found["both_bad_below_average"]) == (1, 0.5)


def test_without_held_out_votes_the_report_says_nothing_for_sure(tmp_path: Path) -> None:
    found = report(tmp_path, [vote(0, split="train")])
    assert found["held_out"] == 0
    assert found["accuracy_interval"] == [0.0, 1.0]
    assert found["temperature"] == 1.0
