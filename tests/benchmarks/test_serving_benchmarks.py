"""The serving benchmarks at their smallest: they run to their end and count what they say.

Times are not judged here: other work on the machine would decide.
"""

from __future__ import annotations

import asyncio
import math
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.benchmarks import overload, swap_under_load, throughput, while_training
from tests.benchmarks.serving_goals import Goal, print_goals, quantile
from tests.benchmarks.swap_records import Answered, Outcome, Swap, take_gaps
from tests.benchmarks.throughput_load import (
    Figures,
    Sample,
    added_by_service,
    engine_firsts,
    under_load,
)


def judged(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """The judged figures by what they tell."""
    found = {}
    for line in capsys.readouterr().out.splitlines():
        if line.startswith(("met ", "MISSED ")):
            name, figure, _ = line[7:].rsplit(": ", 2)
            found[name] = float(figure.split()[0].removesuffix("x"))
    return found


@pytest.mark.parametrize("mode", [[], ["--http"]])
def test_swaps_lose_no_answer(mode: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    swap_under_load.main(["--swaps", "3", "--streams", "2", *mode])
    found = judged(capsys)
    assert found["answers replayed"] > 0
    counted = ("refused swaps", "dropped answers", "truncated answers")
    assert [found[name] for name in counted] == [0] * len(counted)


def test_overload_answers_or_tells_when_to_come_again(capsys: pytest.CaptureFixture[str]) -> None:
    overload.main(["--seconds", "1", "--answer-tokens", "16"])
    found = judged(capsys)
    assert found["at 10 times: neither answered nor told when to come again"] == 0
    assert found["at 10 times: first token of accepted, p95 of normal's"] > 0


def test_answers_go_on_while_a_run_trains(capsys: pytest.CaptureFixture[str]) -> None:
    while_training.main(["--rounds", "1", "--seconds", "1", "--answer-tokens", "16"])
    found = judged(capsys)
    assert found["lost answers"] == 0
    assert found["gap between tokens, p95, of idle's"] > 0


def test_throughput_compares_engine_service_and_generate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = ["--streams", "1", "2", "--questions", "1", "--answer-tokens", "8", "--without-serve"]
    throughput.main(short)
    found = judged(capsys)
    assert found["engine over generate at 2 streams"] > 0
    assert found["a pair of answers over one"] > 0
    added = "added to the first token by the service, p95, at 2 streams"
    assert 0 < found[added] < math.inf
    assert 0 < found[f"{added} that begin apart"] < math.inf


def test_what_the_service_adds_is_told_from_what_the_engine_took(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(
        "a line of some library\n"
        '{"event": "turn_began", "turn": "t"}\n'
        '{"event": "answer_stored", "candidate": "a", "engine_first_token_ms": 150.0}\n'
        '{"event": "answer_stored", "candidate": "b", "engine_first_token_ms": 40.0}\n'
    )
    samples = [Sample(0.175, 9, "chatcmpl-a"), Sample(0.05, 9, "chatcmpl-b")]
    added = added_by_service(Figures.of(samples, 1.0), engine_firsts(log))
    assert added == pytest.approx([0.025, 0.01])


def test_a_missed_goal_is_the_exit_code() -> None:
    fine = [Goal("few", 1, 2), Goal("many", 3, 2, at_least=True)]
    assert print_goals(fine) == 0
    for missed in (Goal("few", 3, 2), Goal("many", 1, 2, at_least=True), Goal("none", math.nan, 2)):
        assert print_goals([*fine, missed]) == 1


def test_quantiles_are_values_that_were_measured() -> None:
    assert [quantile([3, 1, 2, 4], share) for share in (0.0, 0.5, 0.75, 1.0)] == [1, 2, 3, 4]
    assert math.isnan(quantile([], 0.5))


def test_waits_that_touch_a_swap_are_told_from_others() -> None:
    outcome = Outcome(swaps=[Swap(1.0, 2.0), Swap(5.0, 6.0)])
    times = [0.0, 0.5, 1.5, 1.75, 3.0, 4.0, 7.0]
    settings = {"max_new_tokens": 7}
    take_gaps(outcome, [Answered("v", {}, 0, settings, [1] * 7, "length", times)])
    assert outcome.gaps_without == [0.5, 1.0]
    assert outcome.gaps_with == [1.0, 0.25, 1.25, 3.0]


def test_an_answer_is_cut_off_unless_it_ended_or_is_full() -> None:
    def cut(tokens: list[int], reason: str) -> bool:
        return Answered("v", {}, 0, {"max_new_tokens": 3}, tokens, reason, []).truncated(end=9)

    assert not cut([1, 2, 3], "length")
    assert not cut([1, 9], "stop")
    assert cut([1, 2], "length")
    assert cut([1, 2], "stop")


def test_a_load_asks_every_question_once_and_as_many_at_once_as_it_has_streams() -> None:
    asked: list[int] = []
    at_once, most = 0, 0

    async def ask(number: int) -> Sample:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        asked.append(number)
        await asyncio.sleep(0.001)
        at_once -= 1
        return Sample(0.5, 10)

    figures = asyncio.run(under_load(ask, 3, 9))
    assert sorted(asked) == list(range(9))
    assert most == 3
    assert (figures.tokens, figures.first_p95_s) == (90, 0.5)


def test_streams_begin_as_far_apart_as_they_are_told() -> None:
    asked: list[float] = []

    async def ask(_number: int) -> Sample:
        asked.append(time.monotonic())
        await asyncio.sleep(0.3)
        return Sample(0.5, 10)

    asyncio.run(under_load(ask, 3, 3, apart_s=0.05))
    assert all(later - earlier > 0.045 for earlier, later in pairwise(asked))
    assert len(asked) == 3
