"""Training runs end to end with a tiny random policy and real worker processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine
from sqlmodel import col, select
from structlog.testing import capture_logs

from rlhf_engine.policy_version import PolicyVersionFolder
from rlhf_engine.probes import COUNT, Probe
from rlhf_engine.records import Prompt, SampledAnswer, SamplingSettings, from_json
from rlhf_engine.run_folder import Progress, RunFolder
from rlhf_engine.torch_engine import TorchEngine
from rlhf_engine.waiting import WAITING
from service import leases, policies, run_curves, run_outcome, smoke, training
from service.database import migrate, open_database, session
from service.demo import pairs
from service.errors import ConflictError, NotFoundError, SettingsError, TrainingRunError
from service.line_pages import read_log
from service.people import simulated_person
from service.plugin_host import PluginHost
from service.samples import read_samples
from service.scheduler import start_if_enough
from service.settings import Settings, SignalSettings, SourceSettings, TrainingSettings
from service.sync import sync_all
from service.tables import GateReport, PolicyVersion, StageReport, TrainingRun, Turn, now
from tests.service.conversations import record_comparison
from tests.tiny import tiny_base

FEW = TrainingSettings(min_new_comparisons=1)
PLACES = ("Boston", "Berlin", "Pune", "Leeds")
THINGS = ("reception", "library", "canteen", "workshop", "garage", "garden")

TINY_PLAN = {
    "dtype": "float32",
    "threads": 1,
    "max_prompt_tokens": 128,
    "max_answer_tokens": 24,
    "lora": {"rank": 4, "alpha": 8},
    "sft": {"epochs": 24, "learning_rate": 1e-2},
    "reward_model": {"epochs": 1},
    "ppo": {
        "rollout_batches": 3,
        "rollout_size": 4,
        "answers_per_prompt": 2,
        "minibatch_size": 2,
        "epochs": 1,
    },
    "evaluation": {"bootstrap_rounds": 100},
    "gate": {"max_similarity_drop": 100, "max_length_ratio": 100},
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def settings(base: Path, tmp_path: Path) -> Settings:
    for name, things in (("gold", THINGS[:4]), ("exam", THINGS[4:])):
        rows = [
            f'"Where is the {thing} in {place}?","The {thing} in {place} is on floor {at}."'
            for at, place in enumerate(PLACES, start=1)
            for thing in things
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(["question,answer", *rows]))
    return Settings(
        home=tmp_path / "home",
        base_policy=str(base),
        threads=1,
        sources=(
            _csv("gold", tmp_path / "gold.csv", "training"),
            _csv("exam", tmp_path / "exam.csv", "evaluation"),
        ),
        signals=(SignalSettings(name="concise", plugin="concise", weight=0.25),),
        training=TrainingSettings(plan=TINY_PLAN, niceness=5),
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Engine]:
    opened = open_database(settings.database)
    migrate(opened)
    sync_all(opened, PluginHost.load(), settings)
    yield opened
    opened.dispose()


def start(database: Engine, settings: Settings, **plan: object) -> str:
    with session(database) as opened:
        return training.start_run(opened, settings, "test", "a test", plan).id


def votes(database: Engine, settings: Settings) -> None:
    """A vote for the gold answer on every question of training."""
    with session(database) as opened:
        policies.register_base(opened, settings, Path(settings.base_policy))
        live = policies.live_version(opened)
        person = simulated_person(opened, pairs.VOTER)
        for at, place in enumerate(PLACES, start=1):
            for thing in THINGS[:4]:
                prompt = Prompt(f"{thing}-{place}", f"Where is the {thing} in {place}?")
                answers = [
                    SampledAnswer(prompt.id, text, (1,), (0.0,), "stop", at)
                    for text in (f"The {thing} in {place} is on floor {at}.", "Go and look.")
                ]
                pairs.keep_turn(opened, person, live, prompt, answers, SamplingSettings())
        for turn in opened.exec(select(Turn)):
            record_comparison(opened, person, turn.id, "A", "much")


def stage_files(run: TrainingRun) -> dict[str, int]:
    """When each finished stage's marker was written."""
    folder = Path(run.folder)
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/done.json")}


def row(database: Engine, run_id: str) -> TrainingRun:
    with session(database) as opened:
        return training.find_run(opened, run_id)


def test_two_cycles_sft_then_reward_model_and_ppo(database: Engine, settings: Settings) -> None:
    """Without votes SFT alone is trained and waits for approval; with votes all stages run, the
    SFT policy is taken over, and a gate that nothing passes refuses."""
    heard: list[Progress] = []
    gate = TINY_PLAN["gate"] | {"approval_required": True}  # type: ignore[operator]
    first = start(database, settings, gate=gate)
    run = training.conduct(database, settings, first, "a", heard.append)
    assert (run.state, run.error) == ("awaiting_approval", None)
    assert [p.stage for p in heard if p.stage in ("sft", "evaluation")]
    assert set(stage_files(run)) == {"snapshot", "sft", "evaluation"}
    assert run.snapshot_hash
    assert run.plan["stages"] == ["snapshot", "sft", "evaluation"]
    with session(database) as opened:
        version = opened.get_one(PolicyVersion, run.candidate_id)
        assert (version.number, version.kind, version.state) == (1, "sft", "candidate")
        assert policies.live_version(opened).number == 0
    assert run_outcome.promote(database, settings, version.id, "ada", "looks good", run.id) is None
    assert row(database, first).state == "promoted"

    votes(database, settings)
    never = TINY_PLAN["gate"] | {"min_win_rate_lower": 1.0}  # type: ignore[operator]
    second = start(database, settings, gate=never)
    run = training.conduct(database, settings, second, "a")
    assert (run.state, run.error) == ("refused", None)
    assert run.comparisons == 16
    with session(database) as opened:
        reports = {
            r.stage: r.figures
            for r in opened.exec(select(StageReport).where(StageReport.run_id == second))
        }
        verdict = opened.exec(select(GateReport).where(GateReport.run_id == second)).one()
        candidate = opened.get_one(PolicyVersion, run.candidate_id)
        assert policies.live_version(opened).id == version.id
    assert list(reports) == ["snapshot", "sft", "reward_model", "ppo", "evaluation"]
    assert reports["sft"]["reused"] is True
    assert not verdict.passed
    assert "win rate" in verdict.sentence
    assert (candidate.kind, candidate.state) == ("ppo", "rejected")
    assert candidate.parent_id == version.id
    for made in (version.id, candidate.id):
        _has_probes(settings.policies / made, Path(settings.base_policy))
    _pages_can_be_made_of(Path(run.folder))
    for name in ("base.jsonl", "sft.jsonl"):
        drawn = [Path(row(database, at).folder) / "answers" / name for at in (first, second)]
        assert drawn[0].read_text() == drawn[1].read_text()


def _has_probes(folder: Path, base: Path) -> None:
    """The engine answers with what was trained as training did."""
    stored = PolicyVersionFolder.open(folder, base)
    probes = [from_json(Probe, told) for told in stored.manifest["lineage"]["probes"]]
    assert 1 <= len(probes) <= COUNT
    engine = TorchEngine(base, probes[0].dtype, threads=1)
    engine.start()
    try:
        engine.load(stored)
        smoke.try_out(engine, stored.id, 384, probes)
    finally:
        engine.stop()


def _pages_can_be_made_of(folder: Path) -> None:
    """What a worker leaves is what the pages of a run read; its log holds no text of anybody."""
    curves = {curve.panel.id: curve for curve in run_curves.read_curves(folder)}
    assert {"reward", "kl", "entropy", "value", "length", "reward_model"} <= set(curves)
    assert curves["reward"].x == [0.0, 1.0, 2.0]
    assert all(curve.series[0].values[-1] is not None for curve in curves.values())
    sample = read_samples(folder).rows[0]
    assert sample.question.startswith("Where is the gar")
    assert sample.reward_candidate is not None
    log = read_log(folder / "worker.log", None).text
    texts = [sample.question, sample.gold, "Where is the", "is on floor", "Go and look"]
    assert not [text for text in texts if text in log]


def test_killed_or_cancelled_anywhere_a_run_goes_on_from_its_last_marker(
    database: Engine, settings: Settings
) -> None:
    votes(database, settings)
    run_id = start(database, settings)
    done: dict[str, int] = {}
    for stage, end, state in (
        ("sft", _kill, "interrupted"),
        ("reward_model", _kill, "interrupted"),
        ("ppo", _cancel, "cancelled"),
        ("ppo", _kill, "interrupted"),
        ("evaluation", _kill, "interrupted"),
    ):
        watcher = _when_at(stage, row(database, run_id), lambda run, end=end: end(database, run))
        run = training.conduct(database, settings, run_id, "a")
        watcher.join()
        assert run.state == state, run.error
        if state == "interrupted":
            assert "SIGKILL" in str(run.error)
        again = stage_files(run)
        assert stage not in again
        assert {name: again[name] for name in done} == done, "a finished stage was done again"
        done = again
        with session(database) as opened:
            assert training.resume_run(opened).id == run_id
    run = training.conduct(database, settings, run_id, "b")
    assert run.state in ("promoted", "refused")
    assert run.error is None
    assert {name: stage_files(run)[name] for name in done} == done
    batches = [m["batch"] for m in RunFolder(Path(run.folder)).metrics() if "batch" in m]
    assert sorted(set(batches)) == [0, 1, 2]
    with session(database) as opened, pytest.raises(TrainingRunError, match="can be resumed"):
        training.resume_run(opened, run_id)


def test_a_conductor_that_stops_leaves_its_run_to_the_next(
    database: Engine, settings: Settings
) -> None:
    run_id = start(database, settings)
    pids: list[int] = []
    began = threading.Event()

    def note(run: TrainingRun) -> None:
        pids.append(_worker_pid(run))
        began.set()

    watcher = _when_at("", row(database, run_id), note)
    first = training.Conductor(database, settings, "first")
    first.start()
    assert began.wait(90)
    with pytest.raises(ConflictError, match="somebody else"):
        training.conduct(database, settings, run_id, "second")
    first.stop(30)
    watcher.join()
    assert not psutil.pid_exists(pids[0])
    with session(database) as opened:
        waiting = training.next_run(opened)
    assert waiting is not None
    assert (waiting.id, waiting.state, waiting.lease_holder) == (run_id, "queued", None)


def test_a_run_whose_conductor_died_is_found(database: Engine, settings: Settings) -> None:
    run_id = start(database, settings)
    with session(database) as opened:
        assert leases.claim_run(opened, run_id, "dead", 60) == 1
        run = training.find_run(opened, run_id)
        run.state = "running"
        opened.add(run)
    with session(database) as opened:
        assert training.next_run(opened) is None
        run = training.find_run(opened, run_id)
        run.lease_expires_at = now() - timedelta(seconds=1)
        opened.add(run)
    with session(database) as opened:
        found = training.next_run(opened)
        assert found is not None
        assert found.id == run_id
        assert training.resume_run(opened, run_id).state == "queued"


def test_nothing_to_learn_from_is_said(settings: Settings, tmp_path: Path) -> None:
    empty = open_database(f"sqlite:///{tmp_path}/empty.db")
    migrate(empty)
    run = training.conduct(empty, settings, start(empty, settings), "a")
    assert run.state == "failed"
    assert "no gold answer" in str(run.error)
    empty.dispose()


def test_a_reward_signal_that_is_not_installed_fails_the_run_by_name(
    database: Engine, settings: Settings
) -> None:
    wrong = settings.model_copy(
        update={"signals": (SignalSettings(name="kind", plugin="kindness"),)}
    )
    run = training.conduct(database, wrong, start(database, wrong), "a")
    assert run.state == "failed"
    assert "kindness" in str(run.error)
    assert set(stage_files(run)) == set()


def test_a_folder_that_cannot_be_written_fails_the_run_and_nothing_else(
    database: Engine, settings: Settings
) -> None:
    settings.runs.parent.mkdir(exist_ok=True)
    settings.runs.write_text("a file where the folder of runs should be")
    run = training.conduct(database, settings, start(database, settings), "a")
    assert run.state == "failed"
    assert "runs" in str(run.error)
    settings.runs.unlink()
    with session(database) as opened:
        assert training.resume_run(opened).state == "queued"


class At(threading.Event):
    """Does something where a conductor first asks whether it is to stop: a worker was started."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._act = act

    def is_set(self) -> bool:
        self._act()
        return True


def _raise(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def test_whatever_goes_wrong_a_run_ends_and_the_next_may_begin(
    database: Engine, settings: Settings
) -> None:
    secret = "How ill am I?"
    run_id = start(database, settings)
    upset = At(_raise(RuntimeError(secret)))
    with capture_logs() as logs:
        run = training.conduct(database, settings, run_id, "a", stop=upset)
    assert (run.state, run.lease_holder) == ("failed", None)
    assert run.finished_at is not None
    assert "RuntimeError" in str(run.error)
    assert f"heed train resume {run_id}" in str(run.error)
    assert secret not in str(run.error)
    (line,) = [line for line in logs if line["event"] == "run_failed"]
    assert line["exc_info"]
    assert start(database, settings) != run_id


def test_a_conductor_that_lost_its_lease_writes_nothing_and_ends_quietly(
    database: Engine, settings: Settings
) -> None:
    run_id = start(database, settings)

    def lose() -> None:
        with session(database) as opened:
            taken = training.find_run(opened, run_id)
            taken.fencing, taken.lease_holder = taken.fencing + 1, "b"
            opened.add(taken)
        raise RuntimeError("a report that the other one wrote first")

    with capture_logs() as logs, pytest.raises(ConflictError, match="another conductor"):
        training.conduct(database, settings, run_id, "a", stop=At(lose))
    taken = row(database, run_id)
    assert (taken.state, taken.error, taken.lease_holder) == ("running", None, "b")
    assert "run_failed" not in [line["event"] for line in logs]


def test_a_run_stopped_at_the_keyboard_is_interrupted_and_resumed(
    database: Engine, settings: Settings
) -> None:
    run_id = start(database, settings)
    with pytest.raises(KeyboardInterrupt):
        training.conduct(database, settings, run_id, "a", stop=At(_raise(KeyboardInterrupt())))
    run = row(database, run_id)
    assert (run.state, run.lease_holder) == ("interrupted", None)
    assert run.finished_at is not None
    with session(database) as opened:
        assert training.resume_run(opened).id == run_id


def test_a_run_that_nobody_conducts_is_resumed_before_newer_ones_that_ended(
    database: Engine, settings: Settings
) -> None:
    left = start(database, settings)
    with session(database) as opened:
        training.find_run(opened, left).state = "failed"
    newer = start(database, settings)
    with session(database) as opened:
        training.cancel_run(opened, newer)
        training.find_run(opened, left).state = "running"
    with pytest.raises(ConflictError, match=f"nobody conducts it.*heed train resume {left}"):
        start(database, settings)
    with session(database) as opened, pytest.raises(ConflictError, match=left):
        training.resume_run(opened, newer)
    with session(database) as opened:
        assert training.resume_run(opened).id == left


def test_no_run_is_resumed_while_another_is_at_work(database: Engine, settings: Settings) -> None:
    ended = start(database, settings)
    with session(database) as opened:
        training.cancel_run(opened, ended)
    busy = start(database, settings)
    with session(database) as opened, pytest.raises(ConflictError, match=f"{busy} is queued"):
        training.resume_run(opened, ended)
    assert row(database, ended).state == "cancelled"


def test_votes_of_a_run_that_was_cut_off_while_freezing_are_counted_once(
    database: Engine, settings: Settings
) -> None:
    votes(database, settings)
    run_id = start(database, settings)
    in_the_way = Path(row(database, run_id).folder) / WAITING
    in_the_way.mkdir(parents=True)
    assert training.conduct(database, settings, run_id, "a").state == "failed"
    in_the_way.rmdir()
    with session(database) as opened:
        training.resume_run(opened, run_id)
    stops = At(lambda: None)
    run = training.conduct(database, settings, run_id, "a", stop=stops)
    assert (run.state, run.comparisons) == ("queued", 16)
    with session(database) as opened:
        training.cancel_run(opened, run_id)
    assert start_if_enough(database, settings.model_copy(update={"training": FEW})) is None


def test_one_run_at_a_time(database: Engine, settings: Settings) -> None:
    run_id = start(database, settings)
    with pytest.raises(ConflictError, match=f"{run_id} is queued"):
        start(database, settings)
    with session(database) as opened:
        assert training.cancel_run(opened).state == "cancelled"
        with pytest.raises(TrainingRunError, match="nothing to cancel"):
            training.cancel_run(opened)
    assert start(database, settings) != run_id


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"ppo": {"gamma": 2}}, "gamma is 2"),
        ({"pppo": {}}, "pppo"),
        ({"stages": ["ppo", "sft"]}, "in that order"),
        ({"sft": 3}, "SftPlan"),
    ],
)
def test_a_wrong_plan_is_refused_at_the_start(
    database: Engine, settings: Settings, plan: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        start(database, settings, **plan)


def test_runs_are_found_by_the_beginning_of_their_id(database: Engine, settings: Settings) -> None:
    run_id = start(database, settings)
    with session(database) as opened:
        assert training.find_run(opened, run_id[:5]).id == run_id
        for wrong in ("%", "_", "zz"):
            with pytest.raises(NotFoundError):
                training.find_run(opened, wrong)
        assert opened.exec(select(TrainingRun).where(col(TrainingRun.id) == run_id)).one()


def _csv(name: str, path: Path, purpose: str) -> SourceSettings:
    return SourceSettings.model_validate(
        {"name": name, "plugin": "faq_csv", "purpose": purpose, "options": {"path": str(path)}}
    )


def _kill(database: Engine, run: TrainingRun) -> None:
    os.kill(_worker_pid(run), signal.SIGKILL)


def _cancel(database: Engine, run: TrainingRun) -> None:
    with session(database) as opened:
        assert training.cancel_run(opened, run.id).state == "running"


def _worker_pid(run: TrainingRun) -> int:
    return int((Path(run.folder) / "worker.lock").read_text())


def _when_at(stage: str, run: TrainingRun, act: Callable[[TrainingRun], None]) -> threading.Thread:
    """Act once, as soon as the run's worker is in `stage` (in any, where it is empty)."""
    folder = RunFolder(Path(run.folder))
    seen = folder.progress()

    def watch() -> None:
        waiting = threading.Event()
        for _ in range(60_000):
            progress = folder.progress()
            at_it = progress is not None and progress.at != (seen.at if seen else None)
            if at_it and progress is not None and stage in ("", progress.stage):
                act(run)
                return
            waiting.wait(0.003)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread
