"""What comes of a run that its gate let through, when other versions go live meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from rlhf_engine.plan import RunPlan
from rlhf_engine.records import Demonstration, GateReport, Prompt
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.snapshot import freeze
from service import policies, run_outcome
from service.database import migrate, open_database, session
from service.run_outcome import Outcome
from service.run_plan import SFT_ONLY
from service.settings import Settings
from service.tables import PolicyVersion, Promotion, TrainingRun
from tests.tiny import tiny_base
from tests.versions import register, store_version, write_adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


class Night:
    """A service without a server, and a run that its gate let through."""

    def __init__(self, home: Path, base: Path, engine: Engine) -> None:
        self.home, self.base, self.engine = home, base, engine
        self.settings = Settings(home=home, base_policy=str(base))
        with session(engine) as opened:
            policies.register_base(opened, self.settings, base)

    def promoted(self, seed: int) -> str:
        """A version that somebody made live."""
        folder = store_version(self.base, self.settings.policies, self.home, seed)
        with session(self.engine) as opened:
            register(opened, folder)
        assert run_outcome.promote(self.engine, self.settings, folder.id, "Ada", "better") is None
        return folder.id

    def rolled_back(self) -> None:
        with session(self.engine) as opened:
            policies.move_alias(opened, policies.rollback(opened, "Ada"))

    def run(self, live: str | None) -> tuple[TrainingRun, RunFolder, RunPlan]:
        """A run whose candidate beat that version (None: the base policy)."""
        path = str(self.settings.policies / live) if live else None
        plan = RunPlan(base=str(self.base), live=path, stages=SFT_ONLY)
        folder = RunFolder.create(self.home / "run", plan)
        freeze(folder.stage_path("snapshot"), [Demonstration(Prompt("1", "Why?"), "So.")], [], [])
        write_adapter(self.base, folder.candidate_path, seed=99)
        folder.write_gate_report(GateReport(passed=True, sentence="Passed."))
        run = TrainingRun(folder=str(folder.path), requested_by="scheduler", reason="a test")
        with session(self.engine) as opened:
            opened.add(run)
        return run, folder, plan

    def settled(self, run: TrainingRun, folder: RunFolder, plan: RunPlan) -> Outcome:
        return run_outcome.settle(self.engine, self.settings, run, folder, plan)

    def live(self) -> PolicyVersion:
        with session(self.engine) as opened:
            return policies.live_version(opened)


@pytest.fixture
def night(tmp_path: Path, base: Path) -> Iterator[Night]:
    engine = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(engine)
    yield Night(tmp_path, base, engine)
    engine.dispose()


def test_a_candidate_replaces_the_version_that_it_was_compared_with(night: Night) -> None:
    judged_against = night.promoted(1)
    run, folder, plan = night.run(judged_against)
    outcome = night.settled(run, folder, plan)
    assert (outcome.state, outcome.error) == ("promoted", None)
    assert night.live().id == outcome.candidate_id
    with session(night.engine) as opened:
        previous = policies.aliased(opened, "previous")
    assert previous is not None
    assert previous.id == judged_against


@pytest.mark.parametrize("approval", [False, True])
def test_after_a_rollback_it_replaces_nothing_until_a_person_promotes_it(
    night: Night, approval: bool
) -> None:
    earlier, judged_against = night.promoted(1), night.promoted(2)
    run, folder, plan = night.run(judged_against)
    plan = replace(plan, gate=replace(plan.gate, approval_required=approval))
    night.rolled_back()
    outcome = night.settled(run, folder, plan)
    assert outcome.state == ("awaiting_approval" if approval else "refused")
    assert "against version 2, and version 1 went live since" in str(outcome.error)
    assert "heed promote 3" in str(outcome.error)
    assert night.live().id == earlier
    candidate = str(outcome.candidate_id)
    assert run_outcome.promote(night.engine, night.settings, candidate, "Ada", "I saw") is None
    assert night.live().id == candidate


def test_a_run_compared_with_the_base_policy_replaces_no_version(night: Night) -> None:
    run, folder, plan = night.run(None)
    promoted_since = night.promoted(1)
    outcome = night.settled(run, folder, plan)
    assert outcome.state == "refused"
    assert "against version 0, and version 1 went live since" in str(outcome.error)
    assert night.live().id == promoted_since


def test_a_candidate_that_is_live_already_counts_as_promoted(night: Night) -> None:
    run, folder, plan = night.run(None)
    first = night.settled(run, folder, plan)
    assert first.state == "promoted"
    assert night.settled(run, folder, plan) == first
    with session(night.engine) as opened:
        assert len(opened.exec(select(Promotion)).all()) == 1
