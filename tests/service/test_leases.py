"""Of any number that try at once, one gets the job, the run, or the word of the live server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from service.database import session
from service.leases import (
    beat,
    claim_job,
    claim_run,
    finish_job,
    leave,
    live_server,
    release_run,
    renew_run,
)
from service.tables import JobRun, TrainingRun

SLOT = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
Answer = TypeVar("Answer")


@pytest.fixture
def run_id(engine: Engine) -> str:
    """A queued training run."""
    run = TrainingRun(folder="runs/1", requested_by="Ada", reason="test")
    with session(engine) as opened:
        opened.add(run)
    return run.id


def race(engine: Engine, tries: int, act: Callable[[Session, str], Answer]) -> list[Answer]:
    """What each of several threads got, each with a session and a holder name of its own."""
    start = threading.Barrier(tries)
    got: list[Answer] = []

    def attempt(number: int) -> None:
        with session(engine) as opened:
            start.wait()
            got.append(act(opened, f"holder-{number}"))

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(tries)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_of_many_schedulers_one_gets_a_due_time(engine: Engine) -> None:
    got = race(engine, 5, lambda opened, holder: claim_job(opened, "sync", SLOT, holder, 60))
    assert sorted(got) == [False, False, False, False, True]


def test_each_due_time_is_claimed_on_its_own(engine: Engine) -> None:
    with session(engine) as opened:
        assert claim_job(opened, "sync", SLOT, "a", 60)
        assert claim_job(opened, "sync", SLOT + timedelta(hours=1), "a", 60)
        assert claim_job(opened, "clean-up", SLOT, "b", 60)


def test_a_done_due_time_is_never_claimed_again(engine: Engine) -> None:
    with session(engine) as opened:
        assert claim_job(opened, "sync", SLOT, "a", -1)
        assert finish_job(opened, "sync", SLOT, "a", "the disk is full")
        assert not claim_job(opened, "sync", SLOT, "b", 60)
    with session(engine) as opened:
        assert opened.exec(select(JobRun)).one().error == "the disk is full"


def test_a_job_whose_holder_vanished_is_taken_over_by_one(engine: Engine) -> None:
    with session(engine) as opened:
        assert claim_job(opened, "sync", SLOT, "gone", -1)
    got = race(engine, 4, lambda opened, holder: claim_job(opened, "sync", SLOT, holder, 60))
    assert sorted(got) == [False, False, False, True]
    with session(engine) as opened:
        assert not finish_job(opened, "sync", SLOT, "gone")


def test_of_many_conductors_one_gets_the_run(engine: Engine, run_id: str) -> None:
    got = race(engine, 5, lambda opened, holder: claim_run(opened, run_id, holder, 60))
    assert [number for number in got if number is not None] == [1]


def test_a_lost_lease_is_noticed_by_its_old_holder(engine: Engine, run_id: str) -> None:
    with session(engine) as opened:
        assert claim_run(opened, run_id, "slow", -1) == 1
    got = race(engine, 4, lambda opened, holder: claim_run(opened, run_id, holder, 60))
    assert [number for number in got if number is not None] == [2]
    with session(engine) as opened:
        assert not renew_run(opened, run_id, "slow", 1, 60)
        assert not release_run(opened, run_id, "slow", 1)


def test_the_same_holder_with_an_older_number_is_refused(engine: Engine, run_id: str) -> None:
    with session(engine) as opened:
        assert claim_run(opened, run_id, "a", -1) == 1
        assert claim_run(opened, run_id, "a", 60) == 2
        assert not renew_run(opened, run_id, "a", 1, 60)
        assert renew_run(opened, run_id, "a", 2, 60)


def test_a_renewed_lease_keeps_others_out_until_it_is_released(engine: Engine, run_id: str) -> None:
    with session(engine) as opened:
        assert claim_run(opened, run_id, "a", -1) == 1
        assert renew_run(opened, run_id, "a", 1, 60)
        assert claim_run(opened, run_id, "b", 60) is None
        assert release_run(opened, run_id, "a", 1)
        assert claim_run(opened, run_id, "b", 60) == 2


def test_a_claim_is_seen_on_rows_read_before(engine: Engine, run_id: str) -> None:
    with session(engine) as opened:
        run = opened.get_one(TrainingRun, run_id)
        claim_run(opened, run_id, "a", 60)
        assert (run.lease_holder, run.fencing) == ("a", 1)


def test_an_unknown_run_cannot_be_claimed(engine: Engine) -> None:
    with session(engine) as opened:
        assert claim_run(opened, "no such run", "a", 60) is None


def test_a_server_is_live_while_it_says_so(engine: Engine) -> None:
    with session(engine) as opened:
        assert live_server(opened) is None
        beat(opened, "one", "http://127.0.0.1:8321")
        beat(opened, "two", "http://127.0.0.1:8322")
        beat(opened, "one", "http://127.0.0.1:8321")
        found = live_server(opened)
        assert found is not None
        assert (found.id, found.address) == ("one", "http://127.0.0.1:8321")
        assert live_server(opened, max_age_s=-1) is None
        leave(opened, "one")
        leave(opened, "two")
        assert live_server(opened) is None
