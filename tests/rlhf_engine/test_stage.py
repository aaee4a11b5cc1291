"""A stage tells how far it is, and how long it took over all tries."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_engine import stage as stages
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.stage import Stage
from tests.rlhf_engine.runs import tiny_plan


class Clock:
    """Stands in for the module time."""

    def __init__(self) -> None:
        self.now = 5000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(stages, "time", made)
    return made


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", tiny_plan(tmp_path / "base"))


def begun(run: RunFolder, name: str) -> Stage:
    return Stage(name, run, run.plan(), "float32")


def test_seconds_go_on_from_the_tries_before(run: RunFolder, clock: Clock) -> None:
    """Tries of 100 and 30 seconds, of which the last 20 and 5 were not told; a pause between."""
    for worked, told in ((100, 80), (30, 25)):
        stage = begun(run, "ppo")
        clock.now += told
        stage.tell(1, 9)
        clock.now += worked - told + 3600
    last = begun(run, "ppo")
    assert last.seconds() == 105
    clock.now += 7
    assert last.seconds() == 112


def test_the_time_of_one_stage_is_not_that_of_the_next(run: RunFolder, clock: Clock) -> None:
    first = begun(run, "sft")
    clock.now += 60
    first.tell(1, 1, "done")
    assert begun(run, "reward_model").seconds() == 0
