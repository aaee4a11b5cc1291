"""Policy versions as rows: numbers, the live alias, promotions and rollback."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from rlhf_engine import PolicyVersionFolder
from service import policies
from service.database import session
from service.errors import ConflictError, NotFoundError, PromotionError
from service.settings import Settings
from service.tables import Alias, PolicyVersion, Promotion, TrainingRun
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def settings(tmp_path: Path, base: Path) -> Settings:
    return Settings(home=tmp_path / "home", base_policy=str(base))


def folder(version_id: str) -> PolicyVersionFolder:
    return PolicyVersionFolder(Path(version_id), version_id, {"adapter": {}})


def registered(engine: Engine, *ids: str) -> None:
    with session(engine) as opened:
        for version_id in ids:
            policies.register_candidate(
                opened, folder(version_id), "ppo", "run-1", "hash", None, {"chrf": 31.5}
            )


def promoted(engine: Engine, version_id: str) -> Promotion:
    with session(engine) as opened:
        promotion = policies.request_promotion(opened, version_id, "Ada", "better by 12%")
    with session(engine) as opened:
        policies.move_alias(opened, promotion)
    return promotion


def names(engine: Engine) -> tuple[str, str | None]:
    with session(engine) as opened:
        previous = policies.aliased(opened, "previous")
        return policies.live_version(opened).id, previous.id if previous else None


@pytest.fixture
def version_0(engine: Engine, settings: Settings, base: Path) -> str:
    with session(engine) as opened:
        return policies.register_base(opened, settings, base).id


def test_the_base_policy_is_version_0_and_live_until_another_is(
    engine: Engine, settings: Settings, base: Path, version_0: str
) -> None:
    with session(engine) as opened:
        again = policies.register_base(opened, settings, base)
        assert (again.id, again.number, again.kind, again.state) == (version_0, 0, "base", "live")
        assert policies.live_version(opened).id == version_0
    assert (settings.policies / version_0 / "manifest.json").is_file()


def test_before_the_base_policy_nothing_is_live(engine: Engine) -> None:
    with session(engine) as opened, pytest.raises(NotFoundError, match="no policy is live yet"):
        policies.live_version(opened)


def test_another_base_policy_in_the_same_database_is_refused(
    engine: Engine, settings: Settings, version_0: str, tmp_path: Path
) -> None:
    other = tiny_base(tmp_path / "other", seed=1)
    with session(engine) as opened, pytest.raises(ConflictError, match="another base policy"):
        policies.register_base(opened, settings, other)


def test_candidates_are_numbered_in_order_and_registered_once(
    engine: Engine, version_0: str
) -> None:
    registered(engine, "aaaa", "bbbb", "aaaa")
    with session(engine) as opened:
        rows = [opened.get_one(PolicyVersion, name) for name in ("aaaa", "bbbb")]
    assert [(row.number, row.state, row.figures) for row in rows] == [
        (1, "candidate", {"chrf": 31.5}),
        (2, "candidate", {"chrf": 31.5}),
    ]


def test_candidates_registered_at_once_get_different_numbers(
    engine: Engine, version_0: str
) -> None:
    gate = threading.Barrier(4)

    def register(version_id: str) -> None:
        gate.wait(10)
        registered(engine, version_id)

    threads = [threading.Thread(target=register, args=(f"{at}" * 4,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with session(engine) as opened:
        rows = [opened.get_one(PolicyVersion, f"{at}" * 4) for at in range(4)]
    assert sorted(row.number for row in rows) == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["1", "v1", "ab12", "ab"])
def test_a_version_is_found_by_number_or_beginning_of_its_id(
    engine: Engine, version_0: str, name: str
) -> None:
    registered(engine, "ab12")
    with session(engine) as opened:
        assert policies.find_version(opened, name).id == "ab12"


@pytest.mark.parametrize("name", ["7", "v", "%", "abx", "", "²", "9" * 40])
def test_a_name_of_no_or_several_versions_is_not_found(
    engine: Engine, version_0: str, name: str
) -> None:
    registered(engine, "ab12", "ab34")
    with session(engine) as opened, pytest.raises(NotFoundError):
        policies.find_version(opened, name)


def test_a_promotion_moves_the_alias_and_keeps_the_old_version_as_previous(
    engine: Engine, version_0: str
) -> None:
    registered(engine, "aaaa")
    promotion = promoted(engine, "aaaa")
    assert names(engine) == ("aaaa", version_0)
    with session(engine) as opened:
        row = opened.get_one(Promotion, promotion.id)
        assert (row.state, row.replaced_id, row.by) == ("done", version_0, "Ada")
        assert row.finished_at is not None
        states = [opened.get_one(PolicyVersion, name).state for name in ("aaaa", version_0)]
        assert states == ["live", "retired"]
        assert opened.get_one(Alias, "live").generation == 2


def test_rollback_goes_to_the_version_before_and_back_again(engine: Engine, version_0: str) -> None:
    registered(engine, "aaaa")
    promoted(engine, "aaaa")
    for expected in (version_0, "aaaa"):
        with session(engine) as opened:
            promotion = policies.rollback(opened, "Ada")
            assert promotion.kind == "rollback"
        with session(engine) as opened:
            policies.move_alias(opened, promotion)
        assert names(engine)[0] == expected


def test_without_an_earlier_version_there_is_no_rollback(engine: Engine, version_0: str) -> None:
    with session(engine) as opened, pytest.raises(ConflictError, match="no earlier version"):
        policies.rollback(opened, "Ada")


def test_what_cannot_be_promoted_is_refused_at_once(engine: Engine, version_0: str) -> None:
    registered(engine, "aaaa")
    with session(engine) as opened:
        row = opened.get_one(PolicyVersion, "aaaa")
        row.state = "rejected"
        opened.add(row)
    refusals = {"aaaa": PromotionError, version_0: ConflictError, "nope": NotFoundError}
    for version_id, refusal in refusals.items():
        with session(engine) as opened, pytest.raises(refusal):
            policies.request_promotion(opened, version_id, "Ada", "because")


def test_asking_twice_is_one_request(engine: Engine, version_0: str) -> None:
    registered(engine, "aaaa")
    with session(engine) as opened:
        first = policies.request_promotion(opened, "aaaa", "Ada", "because")
    with session(engine) as opened:
        assert policies.request_promotion(opened, "aaaa", "Bob", "too").id == first.id


def test_a_promotion_judged_against_a_version_no_longer_live_is_refused(
    engine: Engine, version_0: str
) -> None:
    registered(engine, "aaaa", "bbbb")
    with session(engine) as opened:
        late = policies.request_promotion(opened, "bbbb", "Ada", "better than version 0")
    promoted(engine, "aaaa")
    with pytest.raises(ConflictError, match="another version went live"), session(engine) as opened:
        policies.move_alias(opened, late)
    assert names(engine) == ("aaaa", version_0)
    with session(engine) as opened:
        assert opened.get_one(Promotion, late.id).state == "requested"
        policies.refuse(opened, late.id, "another version went live")
    with session(engine) as opened:
        assert opened.get_one(Promotion, late.id).error == "another version went live"


def test_a_promotion_replaces_the_version_it_names_and_no_other(
    engine: Engine, version_0: str
) -> None:
    registered(engine, "aaaa", "bbbb")
    promoted(engine, "aaaa")
    with session(engine) as opened:
        judged = policies.request_promotion(opened, "bbbb", "gate", "won", replaced_id=version_0)
    with pytest.raises(ConflictError, match="another version went live"), session(engine) as opened:
        policies.move_alias(opened, judged)
    assert names(engine) == ("aaaa", version_0)


def test_of_two_that_move_the_alias_at_once_one_does(engine: Engine, version_0: str) -> None:
    registered(engine, "aaaa", "bbbb")
    with session(engine) as opened:
        rivals = [policies.request_promotion(opened, name, "Ada", "x") for name in ("aaaa", "bbbb")]
    gate = threading.Barrier(4)
    won: list[str] = []

    def move(promotion: Promotion) -> None:
        gate.wait(10)
        try:
            with session(engine) as opened:
                policies.move_alias(opened, promotion)
        except ConflictError:
            return
        won.append(promotion.version_id)

    threads = [threading.Thread(target=move, args=(rivals[at % 2],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert won == [names(engine)[0]]
    with session(engine) as opened:
        assert opened.get_one(Alias, "live").generation == 2


def run_1(**more: Any) -> TrainingRun:
    return TrainingRun(id="run-1", folder="run-1", requested_by="Ada", reason="x", **more)


def test_promoting_the_candidate_of_a_run_that_awaits_approval_ends_the_run(
    engine: Engine, version_0: str
) -> None:
    registered(engine, "aaaa")
    with session(engine) as opened:
        opened.add(run_1(state="awaiting_approval", candidate_id="aaaa"))
    promoted(engine, "aaaa")
    with session(engine) as opened:
        run = opened.get_one(TrainingRun, "run-1")
    assert run.state == "promoted"
    assert run.finished_at is not None


@pytest.mark.parametrize(
    ("candidate", "run_id", "state"),
    [
        ("aaaa", "run-1", "promoted"),
        ("aaaa", None, "refused"),
        ("bbbb", "run-1", "refused"),
    ],
    ids=["its own promotion", "somebody else's", "another version of the run"],
)
def test_a_run_whose_version_went_live_too_late_is_promoted_after_all(
    engine: Engine, version_0: str, candidate: str, run_id: str | None, state: str
) -> None:
    registered(engine, "aaaa", "bbbb")
    too_late = "the server did not swap within 180 s"
    with session(engine) as opened:
        opened.add(run_1(state="refused", candidate_id=candidate, error=too_late))
    with session(engine) as opened:
        asked = policies.request_promotion(opened, "aaaa", "the gate", "won", run_id=run_id)
    with session(engine) as opened:
        policies.move_alias(opened, asked)
        run = opened.get_one(TrainingRun, "run-1")
    assert (run.state, run.error) == (state, None if state == "promoted" else too_late)


def test_an_alias_may_stand_for_the_version_it_names(engine: Engine, version_0: str) -> None:
    registered(engine, "aaaa")
    with session(engine) as opened:
        policies.set_candidate(opened, "aaaa", "Ada")
    with session(engine) as opened:
        assert policies.find_version(opened, "live").id == version_0
        assert policies.find_version(opened, "candidate").id == "aaaa"
        with pytest.raises(NotFoundError):
            policies.find_version(opened, "previous")


def test_of_two_first_candidates_set_at_once_one_is_told_of_the_other(
    engine: Engine, version_0: str
) -> None:
    registered(engine, "aaaa", "bbbb")
    gate = threading.Barrier(2)
    heard: list[str] = []

    def set_one(version_id: str) -> None:
        gate.wait(10)
        try:
            with session(engine) as opened:
                policies.set_candidate(opened, version_id, "Ada")
        except ConflictError:
            return
        heard.append(version_id)

    threads = [threading.Thread(target=set_one, args=(name,)) for name in ("aaaa", "bbbb")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with session(engine) as opened:
        row = opened.get_one(Alias, "candidate")
    # Where they did not meet, both did it, one after the other.
    assert row.version_id in heard
    assert row.generation == len(heard)
