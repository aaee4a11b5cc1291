"""The scheduler: what is due is done once, late or not, by one of however many wake."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from plugins.contract import Complete, DataSource, GoldPair
from plugins.hookspecs import hookimpl
from service import leases, one_time_links, scheduler, sign_in_sessions
from service.account_tables import Account, OneTimeLink, ProviderVisit, SignInSession
from service.database import migrate, open_database, session
from service.errors import SettingsError
from service.plugin_host import PluginHost
from service.settings import Settings, SourceSettings, TrainingSettings
from service.tables import JobRun, Person, SyncReport, TrainingRun, now
from tests.service.conversations import make_talk

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    moment: datetime

    def __call__(self) -> datetime:
        return self.moment

    def forward(self, **span: float) -> None:
        self.moment += timedelta(**span)


class OneQuestion:
    """A plugin whose source holds one question; `read` is set each time it is read."""

    def __init__(self) -> None:
        self.read = threading.Event()

    @hookimpl
    def heed_data_sources(self) -> tuple[type[DataSource], ...]:
        read = self.read

        class Source:
            """One question."""

            name = "one"

            def __init__(self, settings: None) -> None:
                pass

            def items(self, cursor: object) -> Iterator[object]:
                read.set()
                yield GoldPair("1", "When does the office open?", "At nine.")
                yield Complete()

        return (Source,)  # type: ignore[return-value]


def settings_in(folder: Path, **more: object) -> Settings:
    values: dict[str, object] = {
        "home": folder,
        "sources": (SourceSettings(name="one", plugin="one"),),
        "sync_schedule": "15 * * * *",
        "cleanup_schedule": None,
        "training": TrainingSettings(schedule=None),
    }
    return Settings(**(values | more))  # type: ignore[arg-type]


def scheduler_of(
    engine: Engine, settings: Settings, clock: Clock, holder: str, plugin: OneQuestion | None = None
) -> scheduler.Scheduler:
    host = PluginHost()
    host.register("one", plugin or OneQuestion())
    return scheduler.Scheduler(engine, settings, holder, host, clock)


def syncs(engine: Engine) -> int:
    with session(engine) as opened:
        return len(opened.exec(select(SyncReport)).all())


def test_a_due_time_is_done_once_however_often_it_wakes(engine: Engine, tmp_path: Path) -> None:
    clock = Clock(NOON)
    woken = scheduler_of(engine, settings_in(tmp_path), clock, "a")
    assert woken.due("sync") == NOON - timedelta(minutes=45)
    assert woken.wake("sync")
    assert not woken.wake("sync")
    clock.forward(minutes=15)
    assert woken.wake("sync")
    assert syncs(engine) == 2


def test_two_schedulers_never_do_the_same_due_time(engine: Engine, tmp_path: Path) -> None:
    clock = Clock(NOON)
    both = [scheduler_of(engine, settings_in(tmp_path), clock, name) for name in "ab"]
    with ThreadPoolExecutor(8) as pool:
        did = list(pool.map(lambda at: both[at % 2].wake("sync"), range(8)))
    assert did.count(True) == 1
    assert syncs(engine) == 1


def test_what_was_missed_while_down_is_done_once(engine: Engine, tmp_path: Path) -> None:
    clock = Clock(NOON)
    settings = settings_in(tmp_path)
    scheduler_of(engine, settings, clock, "before").catch_up()
    assert syncs(engine) == 0, "the first start ever misses nothing"
    clock.forward(days=3)
    scheduler_of(engine, settings, clock, "after").catch_up()
    assert syncs(engine) == 1, "72 due times were missed, one sync makes up for them"
    scheduler_of(engine, settings, clock, "again").catch_up()
    assert syncs(engine) == 1


def test_a_job_whose_holder_vanished_is_done_by_another(engine: Engine, tmp_path: Path) -> None:
    clock = Clock(NOON)
    other = scheduler_of(engine, settings_in(tmp_path), clock, "b")
    slot = other.due("sync")
    assert slot is not None
    with session(engine) as opened:
        assert leases.claim_job(opened, "sync", slot, "a", lease_s=60)
    assert not other.wake("sync"), "a still has it"
    later = slot + timedelta(hours=1)
    clock.forward(hours=1)
    with session(engine) as opened:
        assert leases.claim_job(opened, "sync", later, "a", lease_s=-1)
    assert other.wake("sync"), "the lease of a is over"


def test_a_failed_job_keeps_its_error_and_the_next_due_time_runs(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(database)
    clock = Clock(NOON)
    settings = settings_in(
        tmp_path,
        training=TrainingSettings(
            schedule="0 * * * *", min_new_comparisons=1, plan={"ppo": {"gamma": 7}}
        ),
    )
    woken = scheduler_of(database, settings, clock, "a")
    make_talk(database).vote_everything()
    assert not woken.wake("train")
    with session(database) as opened:
        row = opened.exec(select(JobRun)).one()
    assert row.finished_at is not None
    assert "gamma is 7" in str(row.error)
    clock.forward(hours=1)
    assert not woken.wake("train")
    with session(database) as opened:
        assert len(opened.exec(select(JobRun)).all()) == 2
    database.dispose()


def test_training_is_queued_only_with_enough_new_votes(engine: Engine, tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path, training=TrainingSettings(schedule="0 2 * * *", min_new_comparisons=2)
    )
    clock = Clock(NOON)
    woken = scheduler_of(engine, settings, clock, "a")
    make_talk(engine).vote_everything()
    assert woken.wake("train")
    assert _runs(engine) == []
    make_talk(engine).vote_everything()
    clock.forward(days=1)
    assert woken.wake("train")
    assert [run.state for run in _runs(engine)] == ["queued"]
    clock.forward(days=1)
    assert woken.wake("train")
    assert len(_runs(engine)) == 1, "a second one waits until the first has ended"


def test_started_it_does_in_the_background_what_was_missed(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(database)
    clock = Clock(NOON)
    settings = settings_in(tmp_path)
    scheduler_of(database, settings, clock, "before").catch_up()
    clock.forward(hours=2)
    plugin = OneQuestion()
    started = scheduler_of(database, settings, clock, "after", plugin)
    started.start()
    try:
        assert plugin.read.wait(20)
    finally:
        started.stop()
    assert syncs(database) == 1
    database.dispose()


def test_clean_up_keeps_the_newest_row_of_each_job(engine: Engine, tmp_path: Path) -> None:
    clock = Clock(NOON)
    settings = settings_in(tmp_path, cleanup_schedule="30 3 * * *")
    woken = scheduler_of(engine, settings, clock, "a")
    assert woken.wake("sync")
    clock.forward(hours=1)
    assert woken.wake("sync")
    clock.forward(days=200)
    assert woken.wake("cleanup")
    with session(engine) as opened:
        rows = opened.exec(select(JobRun).order_by(JobRun.job)).all()  # type: ignore[arg-type]
    assert [(row.job, row.slot) for row in rows] == [
        ("cleanup", (NOON + timedelta(days=200)).replace(hour=3, minute=30)),
        ("sync", NOON + timedelta(minutes=15)),
    ]


def test_clean_up_removes_sessions_and_links_that_are_over(engine: Engine, tmp_path: Path) -> None:
    begun = now()
    settings = settings_in(tmp_path, cleanup_schedule="30 3 * * *")
    with session(engine) as opened:
        person = Person(name="Ada")
        opened.add(person)
        opened.flush()
        opened.add(Account(person_id=person.id, sign_in_name="ada"))
        _row, left = sign_in_sessions.begin(opened, person, "password", "a test", settings)
        old, _token = sign_in_sessions.begin(opened, person, "password", "a test", settings)
        old.expires_at = begun + timedelta(days=1)
        # The second voids the first; the invitation still works for a week.
        one_time_links.first_account(opened)
        one_time_links.first_account(opened)
        invited = one_time_links.invite(opened, "employee", None, "root")
        begin_visit = ProviderVisit(
            state_hash="1",
            browser_hash="2",
            nonce="3",
            verifier="4",
            next_path="/",
            expires_at=begun + timedelta(minutes=10),
        )
        opened.add(begin_visit)
    clock = Clock(begun + timedelta(days=2))
    assert scheduler_of(engine, settings, clock, "a").wake("cleanup")
    with session(engine) as opened:
        assert sign_in_sessions.signed_in(opened, left, settings) is not None
        assert one_time_links.look(opened, invited).role == "employee"
        for table in (SignInSession, OneTimeLink):
            assert len(opened.exec(select(table)).all()) == 1
        assert opened.exec(select(ProviderVisit)).all() == []
    clock.forward(days=400)
    assert scheduler_of(engine, settings, clock, "a").wake("cleanup")
    with session(engine) as opened:
        assert [*opened.exec(select(SignInSession)), *opened.exec(select(OneTimeLink))] == []


def test_clean_up_removes_weights_of_old_promoted_runs_only(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(database)
    clock = Clock(NOON)
    for name, state, age in (
        ("old", "promoted", 30),
        ("young", "promoted", 1),
        ("broken", "failed", 30),
    ):
        folder = tmp_path / "runs" / name
        for kept in ("snapshot/big.jsonl", "metrics.jsonl", "sft/adapter/a.safetensors"):
            (folder / kept).parent.mkdir(parents=True, exist_ok=True)
            (folder / kept).write_bytes(b"x")
        with session(database) as opened:
            opened.add(
                TrainingRun(
                    id=name,
                    state=state,
                    folder=str(folder),
                    requested_by="test",
                    reason="test",
                    finished_at=NOON - timedelta(days=age),
                )
            )
    settings = settings_in(tmp_path, cleanup_schedule="30 3 * * *")
    assert scheduler_of(database, settings, clock, "a").wake("cleanup")
    left = sorted(str(p.relative_to(tmp_path / "runs")) for p in tmp_path.rglob("*.safetensors"))
    assert left == ["broken/sft/adapter/a.safetensors", "young/sft/adapter/a.safetensors"]
    assert (tmp_path / "runs/old/snapshot/big.jsonl").exists()
    database.dispose()


@pytest.mark.parametrize(
    ("expression", "due"),
    [
        ("0 2 * * *", datetime(2026, 3, 2, 2, 0, tzinfo=UTC)),
        ("*/10 * * * *", NOON),
        ("0 12 * * 0", datetime(2026, 3, 1, 12, 0, tzinfo=UTC)),
        ("0 12 * * 7", datetime(2026, 3, 1, 12, 0, tzinfo=UTC)),
        ("0 9 * * 1-5", datetime(2026, 3, 2, 9, 0, tzinfo=UTC)),
        ("0 9 * * 2,4", datetime(2026, 2, 26, 9, 0, tzinfo=UTC)),
        ("0 0 1 1 *", datetime(2026, 1, 1, tzinfo=UTC)),
        ("0 0 29 2 *", datetime(2024, 2, 29, tzinfo=UTC)),
        ("0 0 30 2 *", None),
        ("0 2 1 * 3", datetime(2026, 3, 1, 2, 0, tzinfo=UTC)),
        ("0 2 15 * 1", datetime(2026, 3, 2, 2, 0, tzinfo=UTC)),
    ],
)
def test_the_latest_due_time_of_a_cron_expression(expression: str, due: datetime | None) -> None:
    """2 March 2026 is a Monday; cron counts weekdays from Sunday."""
    assert scheduler.last_due(scheduler.cron("sync_schedule", expression), NOON) == due


@pytest.mark.parametrize(
    ("fields", "days"),
    [
        ("* * 1-5/2", ["03-02", "03-04", "03-06", "03-09"]),
        ("* * mon-fri/2", ["03-02", "03-04", "03-06", "03-09"]),
        ("* * */2", ["03-01", "03-03", "03-05", "03-07", "03-08"]),
        ("* * 1/2", ["03-02", "03-04", "03-06", "03-09"]),
        ("* * 5-7/2", ["03-01", "03-06", "03-08", "03-13"]),
        ("* * Fri-Sun", ["03-01", "03-06", "03-07", "03-08"]),
        ("* * 0,3-4", ["03-01", "03-04", "03-05", "03-08"]),
        ("1 * 1", ["03-01", "03-02", "03-09", "03-16", "03-23", "03-30", "04-01", "04-06"]),
        ("13 * 5", ["03-06", "03-13", "03-20", "03-27", "04-03", "04-10", "04-13", "04-17"]),
        ("*/10 * 1", ["05-11", "06-01"]),
        ("1-7 * */7", ["03-01", "04-05", "05-03"]),
    ],
)
def test_the_days_of_a_cron_expression_are_those_of_cron(fields: str, days: list[str]) -> None:
    """Days of 2026 from 1 March on, a Sunday. A day or weekday that begins with * limits the
    other; of two that do not, either is enough."""
    settings = Settings(sync_schedule=f"0 2 {fields}")
    moment, found = datetime(2026, 3, 1, tzinfo=UTC), []
    for _ in days:
        due = scheduler.next_due(settings, "sync", moment)
        assert due is not None
        found.append(f"{due:%m-%d}")
        moment = due + timedelta(minutes=1)
    assert found == days


@pytest.mark.parametrize(
    "expression",
    [
        "hourly",
        "61 * * * *",
        "0 2 * *",
        "0 2 * * 9",
        "0 2 * * 5-1",
        "0 2 * * 1-5/0",
        "0 2 * * mon,someday",
        "0 2 32 * 1",
    ],
)
def test_a_wrong_schedule_is_named(expression: str) -> None:
    with pytest.raises(SettingsError, match="sync_schedule"):
        scheduler.cron("sync_schedule", expression)


def _runs(engine: Engine) -> list[TrainingRun]:
    with session(engine) as opened:
        return list(opened.exec(select(TrainingRun)).all())
