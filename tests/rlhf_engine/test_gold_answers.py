"""Which gold answers an SFT run learns, replays and watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_engine.errors import PlanError, SnapshotError
from rlhf_engine.gold_answers import added, choose_lessons, withdrawn, write_watched
from rlhf_engine.plan import SftPlan
from rlhf_engine.records import Demonstration, Prompt, PromptPassage, Split
from rlhf_engine.snapshot import Snapshot, freeze

PLAN = SftPlan(epochs=2)


def gold(first: int, last: int, split: Split = "train") -> list[Demonstration]:
    return [
        Demonstration(Prompt(f"{split}{at}", f"What is {split} {at}?", split=split), f"It is {at}.")
        for at in range(first, last)
    ]


def frozen(folder: Path, *parts: Sequence[Demonstration]) -> Snapshot:
    return freeze(folder, [item for part in parts for item in part], [], [])


def going_on(earlier: Snapshot, **changes: float) -> SftPlan:
    return replace(PLAN, start_from="policy", seen=str(earlier.path), **changes)  # type: ignore[arg-type]


def ids(items: Sequence[Demonstration]) -> list[str]:
    return [item.prompt.id for item in items]


def test_everything_is_new_without_an_earlier_snapshot(tmp_path: Path) -> None:
    lessons = choose_lessons(PLAN, 17, frozen(tmp_path, gold(0, 12)))
    assert ids(lessons.new) == [f"train{at}" for at in range(12)]
    assert lessons.replayed == lessons.watched == ()


def test_new_answers_are_learnt_with_a_share_of_the_known_ones(tmp_path: Path) -> None:
    earlier = frozen(tmp_path / "a", gold(0, 10))
    now = frozen(tmp_path / "b", gold(0, 13))
    lessons = choose_lessons(going_on(earlier), 17, now)
    assert ids(lessons.new) == ["train10", "train11", "train12"]
    assert len(lessons.replayed) == 3
    assert set(ids(lessons.replayed)) <= set(ids(earlier.demonstrations))
    assert lessons.learnt == lessons.new + lessons.replayed


@pytest.mark.parametrize(("share", "replayed"), [(0.0, 0), (0.01, 1), (1.0, 10)])
def test_the_share_that_is_replayed(tmp_path: Path, share: float, replayed: int) -> None:
    earlier = frozen(tmp_path / "a", gold(0, 10))
    now = frozen(tmp_path / "b", gold(0, 13))
    lessons = choose_lessons(going_on(earlier, replay_share=share), 17, now)
    assert len(lessons.replayed) == replayed


def test_the_same_run_replays_the_same_and_another_seed_others(tmp_path: Path) -> None:
    earlier = frozen(tmp_path / "a", gold(0, 40))
    now = frozen(tmp_path / "b", gold(0, 41))
    plan = going_on(earlier)
    assert choose_lessons(plan, 17, now) == choose_lessons(plan, 17, now)
    assert choose_lessons(plan, 17, now).replayed != choose_lessons(plan, 18, now).replayed


def test_other_passages_do_not_make_an_answer_new(tmp_path: Path) -> None:
    earlier = frozen(tmp_path / "a", gold(0, 4))
    passage = PromptPassage("p", "Handbook", "Reworded since.")
    again = [
        replace(item, prompt=replace(item.prompt, id="other", passages=(passage,)))
        for item in gold(0, 4)
    ]
    now = frozen(tmp_path / "b", again)
    lessons = choose_lessons(going_on(earlier, replay_share=1.0), 17, now)
    assert lessons.new == ()
    assert all(item.prompt.passages == (passage,) for item in lessons.replayed)


@pytest.mark.parametrize("correction", [None, "It is something else."])
def test_going_on_after_a_withdrawn_or_changed_answer_is_refused(
    tmp_path: Path, correction: str | None
) -> None:
    earlier = frozen(tmp_path / "a", gold(0, 5))
    kept = gold(0, 4) + ([replace(gold(4, 5)[0], answer=correction)] if correction else [])
    now = frozen(tmp_path / "b", kept)
    assert withdrawn(earlier, now) == 1
    assert added(earlier, now) == (1 if correction else 0)
    with pytest.raises(SnapshotError, match=r"1 gold answers .* were withdrawn or changed"):
        choose_lessons(going_on(earlier), 17, now)


def test_a_question_that_moved_to_the_exam_counts_as_withdrawn(tmp_path: Path) -> None:
    earlier = frozen(tmp_path / "a", gold(0, 5))
    moved = [replace(item, prompt=replace(item.prompt, split="exam")) for item in gold(4, 5)]
    assert withdrawn(earlier, frozen(tmp_path / "b", gold(0, 4), moved)) == 1


def test_held_out_answers_are_watched_where_an_exam_leaves_them_free(tmp_path: Path) -> None:
    snapshot = frozen(tmp_path, gold(0, 30), gold(0, 20, "held_out"), gold(0, 5, "exam"))
    lessons = choose_lessons(PLAN, 17, snapshot)
    assert len(lessons.new) == 30
    assert len(lessons.watched) == PLAN.watched_questions
    assert {item.prompt.split for item in lessons.watched} == {"held_out"}


def test_evaluation_questions_are_never_watched(tmp_path: Path) -> None:
    snapshot = frozen(tmp_path, gold(0, 400), gold(0, 20, "held_out"))
    lessons = choose_lessons(PLAN, 17, snapshot)
    assert 8 <= len(lessons.watched) <= PLAN.watched_questions
    assert {item.prompt.split for item in lessons.watched} == {"train"}
    assert not set(ids(lessons.watched)) & set(ids(lessons.new))
    assert len(lessons.watched) + len(lessons.new) == 400


@pytest.mark.parametrize(
    "changes", [{"watched_questions": 0}, {"watched_percent": 0}, {"epochs": 1.0}]
)
def test_nothing_is_watched_where_the_plan_says_so_or_nothing_follows(
    tmp_path: Path, changes: dict[str, float]
) -> None:
    snapshot = frozen(tmp_path, gold(0, 400))
    plan = replace(PLAN, **changes)  # type: ignore[arg-type]
    assert choose_lessons(plan, 17, snapshot).watched == ()


def test_few_answers_are_all_learnt(tmp_path: Path) -> None:
    snapshot = frozen(tmp_path, gold(0, 40), gold(0, 7, "held_out"), gold(0, 5, "exam"))
    lessons = choose_lessons(PLAN, 17, snapshot)
    assert (len(lessons.new), lessons.watched) == (40, ())


def test_what_was_watched_before_was_not_learnt_and_stays_watched(tmp_path: Path) -> None:
    earlier = frozen(tmp_path / "a" / "snapshot", gold(0, 400))
    before = choose_lessons(PLAN, 17, earlier)
    write_watched(tmp_path / "a" / "sft", before)
    lessons = choose_lessons(going_on(earlier), 17, frozen(tmp_path / "b", gold(0, 420)))
    assert len(lessons.watched) >= 8
    assert not set(ids(lessons.watched)) & set(ids(before.new))
    assert not set(ids(lessons.replayed)) & set(ids(before.watched))


def test_what_any_run_of_a_chain_learnt_is_never_watched(tmp_path: Path) -> None:
    """The first three runs have too few new questions to watch some, and so learn all."""
    plan, learnt = SftPlan(), set[str]()
    watched = []
    for number, last in enumerate((120, 180, 270, 600)):
        snapshot = frozen(tmp_path / f"{number}" / "snapshot", gold(0, last))
        lessons = choose_lessons(plan, 17, snapshot)
        write_watched(tmp_path / f"{number}" / "sft", lessons)
        assert not set(ids(lessons.watched)) & learnt
        learnt |= set(ids(lessons.learnt))
        assert len(learnt) + len(lessons.watched) == last
        watched.append(len(lessons.watched))
        plan = going_on(snapshot, epochs=3.0)
    assert watched == [0, 0, 0, 16]


def test_without_a_list_all_of_an_earlier_run_counts_as_learnt(tmp_path: Path) -> None:
    earlier = frozen(tmp_path / "a" / "snapshot", gold(0, 400))
    lessons = choose_lessons(going_on(earlier), 17, frozen(tmp_path / "b", gold(0, 420)))
    assert ids(lessons.new) == [f"train{at}" for at in range(400, 420)]
    assert lessons.watched == ()


def test_the_policy_to_go_on_from_needs_its_snapshot() -> None:
    with pytest.raises(PlanError, match="set together"):
        SftPlan(start_from="policy")
