"""A sync keeps each page that a checkpoint ends, and goes on from there after whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from sqlmodel import select

from plugins.contract import (
    Checkpoint,
    Complete,
    Document,
    Item,
    Partial,
    Question,
    Rejected,
    Removal,
    RetryLater,
    SecretError,
    SourceError,
)
from service.database import session
from service.retrieval import retrieve
from service.settings import SourceSettings
from service.sync import sync_source
from service.sync_pages import clear_source
from service.sync_reports import CUT_OFF, Counts
from service.sync_retries import Retries
from service.tables import DataSource, ListedItem, SourceQuestion, SyncReport
from service.tables import Document as DocumentRow
from tests.service.sources import Shelf

SOON = Retries(tries=3, first_s=0.01, longest_s=0.05)
SETTINGS = SourceSettings(name="shelf", plugin="shelf")


def page(number: int) -> Document:
    return Document(f"d{number}", f"Page {number}", f"The gate of house {number} is green.")


def sync(shelf: Shelf, engine: Engine, *contents: Item | Exception) -> SyncReport:
    shelf.contents = list(contents)
    return sync_source(engine, shelf.host, SETTINGS, retries=SOON)


def kept(engine: Engine) -> set[str]:
    with session(engine) as opened:
        return set(opened.exec(select(DocumentRow.external_id)))


def cursor(engine: Engine) -> object:
    with session(engine) as opened:
        return opened.exec(select(DataSource.cursor)).one()


def test_a_failure_keeps_the_pages_before_it_and_the_next_sync_goes_on(engine: Engine) -> None:
    shelf = Shelf()
    broken = SourceError("the shelf fell over")
    report = sync(shelf, engine, page(1), Checkpoint({"at": 1}), page(2), broken)
    assert (report.error or "").endswith(": the shelf fell over")
    assert report.added == 1
    assert (kept(engine), cursor(engine)) == ({"d1"}, {"at": 1})
    report = sync(shelf, engine, page(2), Complete({"at": 2}))
    assert shelf.cursors == [{}, {"at": 1}]
    assert (report.error, report.added, report.removed) == (None, 1, 0)
    assert (kept(engine), cursor(engine)) == ({"d1", "d2"}, {"at": 2})


def test_the_end_removes_what_no_page_listed_even_over_several_syncs(engine: Engine) -> None:
    shelf = Shelf()
    old = [page(number) for number in range(6)]
    sync(shelf, engine, *old, Question("q", "Which gate?"), Complete())
    cut = SourceError("cut off")
    sync(shelf, engine, page(1), Checkpoint({"at": 1}), page(2), Checkpoint({"at": 2}), cut)
    assert len(kept(engine)) == 6
    unusable = Rejected("d3", "it cannot be read")
    report = sync(shelf, engine, unusable, Checkpoint({"at": 3}), page(4), Complete())
    assert (report.error, report.removed) == (None, 3)
    assert kept(engine) == {"d1", "d2", "d3", "d4"}
    with session(engine) as opened:
        assert opened.exec(select(ListedItem)).all() == []
        assert opened.exec(select(SourceQuestion)).all() == []


def test_what_an_ended_sync_listed_does_not_count_for_the_next(engine: Engine) -> None:
    shelf = Shelf()
    sync(shelf, engine, page(1), Checkpoint({"at": 1}), page(2), Complete())
    sync(shelf, engine, page(2), Checkpoint({"at": 1}), page(3), Complete())
    assert kept(engine) == {"d2", "d3"}


def test_a_partial_sync_of_pages_removes_what_it_names(engine: Engine) -> None:
    shelf = Shelf()
    sync(shelf, engine, page(1), page(2), page(3), Complete())
    gone = Removal("d1"), Checkpoint({"at": 1}), page(4), Partial({"at": 2})
    assert sync(shelf, engine, *gone).removed == 1
    assert (kept(engine), cursor(engine)) == ({"d2", "d3", "d4"}, {"at": 2})


def test_other_options_forget_a_half_read_source(engine: Engine) -> None:
    shelf = Shelf()
    sync(shelf, engine, page(1), Checkpoint({"at": 1}), SourceError("cut off"))
    report = shelf.sync(engine, page(2), Complete(), options={"path": "elsewhere"})
    assert shelf.cursors == [{}, {}]
    assert (report.error, kept(engine)) == (None, {"d2"})


def test_a_busy_source_is_waited_for_and_goes_on_from_its_checkpoint(engine: Engine) -> None:
    shelf = Shelf()
    contents: list[Item | Exception] = [page(1), Checkpoint({"at": 1}), RetryLater(0.02, "429")]
    seen: list[str | None] = []

    def free(count: int) -> None:
        with session(engine) as opened:
            seen.append(opened.exec(select(SyncReport.waiting)).one())
        if len(shelf.cursors) == 2:
            shelf.contents[:] = [page(1), page(2), Complete({"at": 2})]

    shelf.contents = contents
    report = sync_source(engine, shelf.host, SETTINGS, free, retries=SOON)
    assert (report.error, report.added, report.waiting) == (None, 2, None)
    assert shelf.cursors[:2] == [{}, {"at": 1}]
    assert any(told is not None and "429" in told for told in seen)
    assert kept(engine) == {"d1", "d2"}


def test_a_source_that_stays_busy_is_given_up_and_keeps_its_checkpoint(engine: Engine) -> None:
    shelf = Shelf()
    busy = RetryLater(None, "too many requests")
    report = sync(shelf, engine, page(1), Checkpoint({"at": 1}), busy)
    assert report.error is not None
    assert report.error.startswith("given up after")
    assert "too many requests" in report.error
    assert (kept(engine), cursor(engine)) == ({"d1"}, {"at": 1})


def test_an_expired_secret_is_told_as_one(engine: Engine) -> None:
    report = sync(Shelf(), engine, SecretError("401: the token expired"))
    assert report.error is not None
    assert report.error.startswith("its secret is not taken; renew it")


def test_a_stop_ends_a_wait_at_once(engine: Engine) -> None:
    shelf, stop = Shelf(), threading.Event()
    shelf.contents = [RetryLater(3_000, "come back in an hour")]
    patient = Retries(first_s=1_000.0, longest_s=10_000.0)
    started = time.monotonic()
    threading.Timer(0.3, stop.set).start()
    report = sync_source(engine, shelf.host, SETTINGS, stop=stop, retries=patient)
    assert time.monotonic() - started < 60
    assert report.error is not None
    assert "the server stopped" in report.error


def test_waits_grow_and_honour_what_was_asked_up_to_a_limit() -> None:
    retries = Retries(tries=5, first_s=4.0, longest_s=60.0)
    for failed, most in ((1, 4.0), (2, 8.0), (3, 16.0), (4, 32.0)):
        waits = [retries.wait_s(failed, None) or 0.0 for _ in range(50)]
        assert most / 2 <= min(waits) < max(waits) <= most
    assert 40.0 <= (retries.wait_s(1, 40.0) or 0.0) <= 44.0
    assert retries.wait_s(1, 4_000.0) == 60.0
    assert (retries.wait_s(1, float("nan")) or 0.0) <= 4.0
    assert retries.wait_s(5, None) is None


def test_a_removed_document_is_found_in_no_committed_state(engine: Engine) -> None:
    shelf = Shelf()
    sync(shelf, engine, page(1), page(2), Complete())
    found: list[tuple[bool, bool]] = []

    @event.listens_for(engine, "commit")
    def look(connection: object) -> None:
        connection_stands = kept_of(connection), found_of(connection)
        found.append(connection_stands)

    sync(shelf, engine, Removal("d1"), Checkpoint({"at": 1}), page(3), Partial())
    event.remove(engine, "commit", look)
    assert (False, False) in found
    assert all(stands == is_found for stands, is_found in found)


def kept_of(connection: object) -> bool:
    statement = select(DocumentRow.id).where(DocumentRow.external_id == "d1")
    return connection.execute(statement).first() is not None  # type: ignore[attr-defined]


def found_of(connection: object) -> bool:
    from sqlmodel import Session

    with Session(connection, join_transaction_mode="create_savepoint") as opened:  # type: ignore[arg-type]
        return any("house 1 " in passage.text for passage in retrieve(opened, "house 1 gate", 5))


def test_questions_are_kept_changed_and_cleared(engine: Engine) -> None:
    shelf = Shelf()
    one, two = Question("1", "Where is the gate?"), Question("2", "Who opens it?")
    assert sync(shelf, engine, one, two, Complete()).added == 2
    report = sync(shelf, engine, one, Question("2", "Who shuts it?"), Complete())
    assert (report.changed, report.unchanged) == (1, 1)
    with session(engine) as opened:
        stored = {row.external_id: row.question for row in opened.exec(select(SourceQuestion))}
        assert stored == {"1": "Where is the gate?", "2": "Who shuts it?"}
        clear_source(opened, opened.exec(select(DataSource)).one(), Counts())
    with session(engine) as opened:
        assert opened.exec(select(SourceQuestion)).all() == []


SOURCE = """
import pathlib, time
from plugins.hookspecs import hookimpl

class Slow:
    name = "slow"
    def __init__(self, settings): ...
    def items(self, cursor):
        place = pathlib.Path(PLACE)
        for number in range(cursor.get("at", 0), 6):
            with place.open("a") as file:
                file.write(f"{number}\\n")
            if number == 3 and not cursor.get("at"):
                time.sleep(600)
            yield dict(kind="document", id=f"d{number}", title="T", text=f"House {number}.")
            yield dict(kind="checkpoint", cursor={"at": number + 1})
        yield dict(kind="complete")

@hookimpl
def heed_data_sources():
    return [Slow]
"""
PROGRAM = """
import sys
from pathlib import Path
from service.database import open_database
from service.plugin_host import PluginHost
from service.settings import Settings, SourceSettings
from service.sync import sync_source
home = Path(sys.argv[2])
host = PluginHost.load(Settings(home=home, plugin_folder=home))
sync_source(open_database(sys.argv[1]), host, SourceSettings(name="slow", plugin="slow"))
"""


def test_after_a_kill_at_most_one_page_is_read_twice(engine: Engine, tmp_path: Path) -> None:
    place = tmp_path / "read.txt"
    home = tmp_path / "plugins"
    home.mkdir()
    (home / "slow.py").write_text(SOURCE.replace("PLACE", repr(str(place))))
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", PROGRAM, url, str(home)]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not (place.exists() and "3\n" in place.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    assert kept(engine) == {"d0", "d1", "d2"}
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert kept(engine) == {f"d{number}" for number in range(6)}
    assert place.read_text().split() == ["0", "1", "2", "3", "3", "4", "5"]
    with session(engine) as opened:
        reports = opened.exec(select(SyncReport).order_by(SyncReport.started_at)).all()  # type: ignore[arg-type]
    assert [report.error for report in reports] == [CUT_OFF, None]
    assert [report.added for report in reports] == [3, 3]


@pytest.mark.parametrize("count", [1, 5])
def test_the_report_of_a_running_sync_tells_how_far_it_is(engine: Engine, count: int) -> None:
    shelf = Shelf()
    seen: list[tuple[int, int]] = []

    def look(number: int) -> None:
        if number == 2 * count + 1:
            with session(engine) as opened:
                row = opened.exec(select(SyncReport)).one()
                seen.append((row.read, row.added))
                assert row.finished_at is None

    pages: list[Item] = []
    for number in range(count):
        pages += [page(number), Checkpoint({"at": number})]
    shelf.contents = [*pages, Complete()]
    sync_source(engine, shelf.host, SETTINGS, look)
    assert seen == [(2 * count, count)]
