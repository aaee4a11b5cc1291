"""ppo_vs_trl runs both sides at its smallest size, and its arithmetic holds."""

from __future__ import annotations

import pytest

from tests.benchmarks import ppo_vs_trl
from tests.benchmarks.ppo_vs_trl_floor import Shape, floor
from tests.benchmarks.trl_environment import TrlUnavailableError, ensure_environment

ONE = Shape(layers=1, hidden=2, query=2, key_value=2, intermediate=3, vocabulary=5, rank=1)


@pytest.mark.timeout(600)
def test_both_sides_run_and_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        ensure_environment()
    except TrlUnavailableError as error:
        pytest.skip(str(error))
    options = ["--dtype", "float32", "--rounds", "1", "--threads", "1"]
    assert ppo_vs_trl.main([*options, "--answers-per-prompt", "4"]) == 0
    printed = capsys.readouterr().out
    for line in ("TRL 1.12.0", "Heed", "rollout", "score", "update", "all of TRL's", "Goal"):
        assert line in printed


def test_the_floor_counts_by_hand() -> None:
    """One prompt of 3 tokens with 2 answers of 1 token: 5 tokens in all."""
    assert ONE.weights == 4 * 4 + 3 * 6
    assert ONE.adapter == 4 * 4 + 3 * 5
    trunk = 2 * (34 + 31) * 5 + 4 * 2 * (3 * 3 / 2 + 2 * (3 + 1 / 2))
    head = 2 * 2 * 5 * 2
    found = floor(ONE, [3], answers_per_prompt=2, answer=1, epochs=2)
    assert found.rollout == trunk + head
    assert found.score == 3 * trunk + 2 * head
    assert found.update == 2 * (2 * (trunk + head) + 2 * 31 * 5)


def test_a_prompt_is_counted_once_for_all_its_answers() -> None:
    apart = floor(ONE, [64] * 4, answers_per_prompt=1, answer=8, epochs=1)
    together = floor(ONE, [64], answers_per_prompt=4, answer=8, epochs=1)
    assert together.total < 0.5 * apart.total
