"""Which earlier SFT policy a new run builds on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlmodel import Session

from rlhf_engine.plan import STAGES, RunPlan, SftPlan
from rlhf_engine.records import Comparison, Demonstration, Prompt, Split, StageReport, Thumb
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.snapshot import Snapshot, freeze
from service.database import migrate, open_database, session
from service.run_plan import (
    SFT_ONLY,
    sft_key,
    take_over_answers,
    with_earlier_reward_model,
    with_earlier_sft,
)
from service.settings import Settings
from service.tables import PolicyVersion, TrainingRun
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    return RunPlan(base=str(tiny_base(tmp_path_factory.mktemp("base"))))


class Home:
    """A database and the folders of earlier runs."""

    def __init__(self, folder: Path, opened: Session) -> None:
        self.settings = Settings(home=folder)
        self.folder, self.opened = folder, opened

    def frozen(self, name: str, numbers: Sequence[int], **changed: str) -> Snapshot:
        """Gold answers to these questions; `changed` gives question q3 another answer."""
        items = [
            Demonstration(Prompt(f"{name}-{at}", f"What is {at}?"), changed.get(f"q{at}", f"{at}."))
            for at in numbers
        ]
        return freeze(self.folder / name / "snapshot", items, [], [])

    def trained(
        self, name: str, plan: RunPlan, snapshot: Snapshot, state: str = "candidate"
    ) -> Path:
        """A finished run that left an SFT version; its folder."""
        run = RunFolder.create(self.folder / name, plan)
        self.opened.add(
            TrainingRun(id=name, folder=str(run.path), requested_by="test", reason="test")
        )
        number = len(list(self.settings.policies.glob("*"))) + 1
        key = sft_key(plan, snapshot)
        self.opened.add(
            PolicyVersion(
                id=f"version-{name}",
                number=number,
                kind="sft",
                state=state,
                run_id=name,
                figures={"sft_key": key},
            )
        )
        self.opened.flush()
        folder = self.settings.policies / f"version-{name}"
        folder.mkdir(parents=True)
        return folder

    def planned(self, plan: RunPlan, snapshot: Snapshot) -> SftPlan:
        planned: RunPlan = with_earlier_sft(self.opened, self.settings, plan, snapshot)
        return planned.sft


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    engine = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(engine)
    with session(engine) as opened:
        yield Home(tmp_path, opened)
    engine.dispose()


def test_the_first_run_begins_with_the_base_policy(home: Home, plan: RunPlan) -> None:
    assert home.planned(plan, home.frozen("a", range(8))) == plan.sft


def test_the_same_gold_answers_are_not_learnt_again_before_ppo(home: Home, plan: RunPlan) -> None:
    snapshot = home.frozen("a", range(8))
    folder = home.trained("a", plan, snapshot)
    assert home.planned(plan, snapshot) == replace(plan.sft, reuse=str(folder))
    alone = replace(plan, stages=SFT_ONLY)
    assert home.planned(alone, snapshot) == plan.sft


@pytest.mark.parametrize("stages", [STAGES, SFT_ONLY])
def test_with_added_gold_answers_sft_goes_on(
    home: Home, plan: RunPlan, stages: tuple[str, ...]
) -> None:
    plan = replace(plan, stages=stages)
    first = home.frozen("a", range(8))
    folder = home.trained("a", plan, first)
    sft = home.planned(plan, home.frozen("b", range(10)))
    assert sft == replace(plan.sft, start_from=str(folder), seen=str(first.path))


def test_it_goes_on_from_the_newest_that_fits(home: Home, plan: RunPlan) -> None:
    home.trained("a", plan, home.frozen("a", range(8)))
    second = home.frozen("b", range(10))
    folder = home.trained("b", plan, second)
    home.trained("c", plan, home.frozen("c", range(10), q3="Wrong."))
    home.trained("d", plan, home.frozen("d", range(11)), state="rejected")
    sft = home.planned(plan, home.frozen("e", range(12)))
    assert (sft.start_from, sft.seen) == (str(folder), str(second.path))


def test_a_policy_that_went_on_is_gone_on_from_too(home: Home, plan: RunPlan) -> None:
    home.trained("a", plan, home.frozen("a", range(8)))
    second = home.frozen("b", range(10))
    gone_on = replace(plan, sft=home.planned(plan, second))
    folder = home.trained("b", gone_on, second)
    assert gone_on.sft.start_from is not None
    assert home.planned(plan, home.frozen("c", range(11))).start_from == str(folder)
    assert home.planned(plan, second).reuse == str(folder)


@pytest.mark.parametrize(
    ("numbers", "changed"),
    [
        (range(7), {}),
        (range(1, 12), {}),
        (range(10), {"q3": "Corrected."}),
        (range(17), {}),
    ],
    ids=["withdrawn", "one withdrawn, others added", "changed", "more added than known"],
)
def test_otherwise_sft_begins_with_the_base_policy(
    home: Home, plan: RunPlan, numbers: Sequence[int], changed: dict[str, str]
) -> None:
    home.trained("a", plan, home.frozen("a", range(8)))
    assert home.planned(plan, home.frozen("b", numbers, **changed)) == plan.sft


def test_other_settings_begin_with_the_base_policy(home: Home, plan: RunPlan) -> None:
    home.trained("a", plan, home.frozen("a", range(8)))
    larger = replace(plan, sft=SftPlan(learning_rate=1e-3))
    assert home.planned(larger, home.frozen("b", range(10))) == larger.sft
    more_replay = replace(plan, sft=SftPlan(replay_share=1.0))
    assert home.planned(more_replay, home.frozen("c", range(10))).start_from is not None


def test_a_run_whose_folder_is_gone_is_passed_over(home: Home, plan: RunPlan) -> None:
    snapshot = home.frozen("a", range(8))
    home.trained("a", plan, snapshot)
    (home.folder / "a" / "plan.json").unlink()
    assert home.planned(plan, home.frozen("b", range(10))) == plan.sft


def test_a_plan_that_names_its_start_keeps_it(home: Home, plan: RunPlan) -> None:
    snapshot = home.frozen("a", range(8))
    home.trained("a", plan, snapshot)
    named = replace(plan, sft=SftPlan(start_from="mine", seen="its-snapshot"))
    assert home.planned(named, home.frozen("b", range(10))) == named.sft


def voted(home: Home, name: str, votes: Sequence[str]) -> Snapshot:
    """A snapshot with a comparison of each of these ids."""
    prompt = Prompt("p", "What is 1?")
    comparisons = [Comparison(vote, prompt, "1.", "2.", "a") for vote in votes]
    gold = [Demonstration(prompt, "1.")]
    return freeze(home.folder / name / "snapshot", gold, comparisons, [])


@pytest.mark.parametrize(
    ("votes", "goes_on"),
    [(["a", "b"], True), (["a", "b", "c"], True), (["a", "c"], False)],
    ids=["the same", "more", "one withdrawn"],
)
def test_a_reward_model_goes_on_where_no_vote_was_withdrawn(
    home: Home, plan: RunPlan, votes: list[str], goes_on: bool
) -> None:
    earlier = voted(home, "a", ["a", "b"])
    home.trained("a", plan, earlier)
    run = RunFolder(home.folder / "a")
    snapshot = voted(home, "b", votes)
    assert with_earlier_reward_model(home.opened, plan, snapshot) == plan
    run.mark_done(StageReport("reward_model", 1.0))
    planned = with_earlier_reward_model(home.opened, plan, snapshot).reward_model
    assert planned.warm_start == (str(run.stage_path("reward_model")) if goes_on else None)


def judged(home: Home, name: str, comparison: Split, thumb: Split) -> Snapshot:
    """A snapshot with a comparison and a thumb, each on a question of its own and one side."""
    gold = [Demonstration(Prompt("g", "What is 0?"), "0.")]
    vote = Comparison("a", Prompt("p", "What is 1?", split=comparison), "1.", "2.", "a")
    given = Thumb(Prompt("q", "What is 2?", split=thumb), "2.", up=True, rater="r")
    return freeze(home.folder / name / "snapshot", gold, [vote], [], [given])


@pytest.mark.parametrize(
    ("then", "today", "goes_on"),
    [
        (("train", "train"), ("train", "train"), True),
        (("train", "train"), ("held_out", "train"), False),
        (("train", "train"), ("train", "exam"), False),
        (("held_out", "exam"), ("train", "train"), True),
        (("held_out", "exam"), ("exam", "held_out"), True),
    ],
    ids=["as it was", "a vote now held out", "a thumb now in the exam", "freed", "never learnt"],
)
def test_a_reward_model_that_learnt_what_is_measured_now_is_not_gone_on_from(
    home: Home,
    plan: RunPlan,
    then: tuple[Split, Split],
    today: tuple[Split, Split],
    goes_on: bool,
) -> None:
    home.trained("a", plan, judged(home, "a", *then))
    run = RunFolder(home.folder / "a")
    run.mark_done(StageReport("reward_model", 1.0))
    planned = with_earlier_reward_model(home.opened, plan, judged(home, "b", *today)).reward_model
    assert planned.warm_start == (str(run.stage_path("reward_model")) if goes_on else None)


def test_a_plan_without_votes_starts_no_reward_model(home: Home, plan: RunPlan) -> None:
    home.trained("a", plan, voted(home, "a", ["a"]))
    RunFolder(home.folder / "a").mark_done(StageReport("reward_model", 1.0))
    only = replace(plan, stages=SFT_ONLY)
    assert with_earlier_reward_model(home.opened, only, voted(home, "b", ["a"])) == only


@pytest.mark.parametrize("readable", [True, False])
def test_answers_are_taken_over_from_a_run_whose_plan_can_be_read(
    home: Home, plan: RunPlan, readable: bool
) -> None:
    snapshot = home.frozen("a", range(8))
    folder = home.trained("a", plan, snapshot)
    earlier = RunFolder(home.folder / "a")
    drawn = earlier.path / "answers" / "base.jsonl"
    drawn.parent.mkdir()
    drawn.write_text("{}\n")
    if not readable:
        earlier.plan_path.write_text('{"mood": "of another version"}')
    reusing = replace(plan, sft=replace(plan.sft, reuse=str(folder)))
    run = RunFolder(home.folder / "b")
    take_over_answers(home.opened, reusing, run)
    assert (run.path / "answers" / "base.jsonl").exists() is readable
