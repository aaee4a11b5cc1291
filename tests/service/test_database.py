"""The tables stand on both databases, keep what must be kept, and say what is wrong."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlmodel import select

from service import tables
from service.database import (
    alembic_config,
    check_schema,
    insert_unless_there,
    migrate,
    open_database,
    schema_state,
    session,
)
from service.errors import DatabaseError, InvalidInputError
from service.migrations.compared import include_name
from tests.service.conversations import Talk, make_talk


def test_the_migrations_make_exactly_the_tables_of_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": include_name})
        assert compare_metadata(context, tables.metadata) == []


def test_an_empty_database_is_empty_until_it_is_migrated(database_url: str) -> None:
    engine = open_database(database_url)
    assert schema_state(engine) == "empty"
    with pytest.raises(DatabaseError, match="is empty"):
        check_schema(engine)
    migrate(engine)
    migrate(engine)
    assert schema_state(engine) == "current"
    check_schema(engine)
    engine.dispose()


def test_a_migration_can_be_undone(engine: Engine) -> None:
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    migrate(engine)
    assert schema_state(engine) == "current"


def test_tables_of_a_newer_version_are_left_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert schema_state(engine) == "ahead"
    with pytest.raises(DatabaseError, match="newer version"):
        migrate(engine)


def _migrate(url: str) -> None:
    engine = open_database(url)
    migrate(engine)
    engine.dispose()


def test_two_processes_may_migrate_at_once(database_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    racers = [context.Process(target=_migrate, args=(database_url,)) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0]
    engine = open_database(database_url)
    assert schema_state(engine) == "current"
    engine.dispose()


@pytest.mark.parametrize("table", tables.APPEND_ONLY)
@pytest.mark.parametrize("verb", ["UPDATE {} SET simulated = NOT simulated", "DELETE FROM {}"])
def test_votes_and_answers_cannot_be_changed_or_deleted(
    engine: Engine, table: str, verb: str
) -> None:
    talk = make_talk(engine)
    talk.vote_everything()
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(verb.format(table)))
    with engine.connect() as connection:
        assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() > 0


def test_a_vote_cannot_be_overwritten_on_sqlite(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(engine)
    make_talk(engine).vote_everything()
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text("INSERT OR REPLACE INTO thumb SELECT * FROM thumb"))
    engine.dispose()


def test_a_session_that_raises_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(KeyError), session(engine) as opened:
        opened.add(tables.Person(name="Ada"))
        opened.flush()
        raise KeyError
    with session(engine) as opened:
        assert opened.exec(select(tables.Person)).all() == []


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_a_value_that_postgresql_cannot_hold_is_wrong_input(engine: Engine) -> None:
    with pytest.raises(InvalidInputError, match="NUL"), session(engine) as opened:
        opened.get(tables.Person, "\x00")


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_a_standby_is_a_database_that_cannot_be_written(engine: Engine) -> None:
    with pytest.raises(DatabaseError, match="read-only"), session(engine) as opened:
        opened.connection().execute(text("SET TRANSACTION READ ONLY"))
        opened.add(tables.Person(name="Ada"))


def test_a_broken_constraint_is_raised_as_it_is(engine: Engine) -> None:
    with pytest.raises(IntegrityError), session(engine) as opened:
        opened.add(tables.Thumb(candidate_id="none", person_id="none", value=1))


def test_a_session_that_read_first_can_write_after_others_did(engine: Engine) -> None:
    with session(engine) as first:
        assert first.exec(select(tables.Person)).all() == []
        with session(engine) as second:
            second.add(tables.Person(name="Ada"))
        first.add(tables.Person(name="Grace"))
    with session(engine) as opened:
        assert len(opened.exec(select(tables.Person)).all()) == 2


def test_writers_wait_for_one_another(engine: Engine) -> None:
    def write() -> None:
        for number in range(10):
            with session(engine) as opened:
                opened.add(tables.Person(name=f"number {number}"))

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with session(engine) as opened:
        assert len(opened.exec(select(tables.Person)).all()) == 40


def test_a_row_whose_key_is_taken_is_not_inserted(engine: Engine) -> None:
    with session(engine) as opened:
        assert insert_unless_there(opened, tables.Person(name="Ada", token_hash="h"))
        assert not insert_unless_there(opened, tables.Person(name="Grace", token_hash="h"))
        assert [person.name for person in opened.exec(select(tables.Person))] == ["Ada"]


def test_moments_keep_their_zone(engine: Engine) -> None:
    tokyo = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=9)))
    with session(engine) as opened:
        opened.add(tables.Person(id="p", name="Ada", created_at=tokyo))
    with session(engine) as opened:
        person = opened.exec(select(tables.Person)).one()
        assert person.created_at == tokyo
        assert person.created_at.utcoffset() == timedelta(0)


def test_a_moment_without_a_zone_is_refused(engine: Engine) -> None:
    with pytest.raises(StatementError, match="no time zone"), session(engine) as opened:
        opened.add(tables.Person(name="Ada", created_at=datetime(2026, 1, 2)))  # noqa: DTZ001, RUF100


def test_sqlite_is_durable_and_checks_references(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/new/folder/heed.db")
    with engine.connect() as connection:
        shown = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    engine.dispose()
    assert shown == ["wal", 2, 1, 10_000]


def _a_file_of_something_else(folder: Path) -> str:
    (folder / "letter.db").write_text("Dear all, this is not a database. " * 100)
    return f"sqlite:///{folder}/letter.db"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://heed@/heed?host={folder}", "cannot be reached"),
        ("postgresql://heed@localhost/heed", r"write sqlite:/// or postgresql\+psycopg://"),
        ("mysql://heed@localhost/heed", "not supported"),
        ("heed.db", "is no URL"),
        ("sqlite://", "keeps nothing"),
        ("sqlite:///{folder}", "is a folder"),
        ("sqlite:////dev/null/heed.db", "cannot be made"),
    ],
)
def test_a_database_that_cannot_be_opened_is_explained(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(DatabaseError, match=said):
        open_database(url.format(folder=tmp_path))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="not a database"):
        open_database(_a_file_of_something_else(tmp_path))


def test_no_password_is_shown(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError) as raised:
        open_database(f"postgresql+psycopg://heed:hunter2@/heed?host={tmp_path}")
    assert "hunter2" not in str(raised.value)


def test_a_database_that_may_not_be_written_is_explained(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(engine)
    with (
        pytest.raises(DatabaseError, match="nothing was changed"),
        session(engine) as opened,
    ):
        opened.connection().exec_driver_sql("PRAGMA query_only = ON")
        opened.add(tables.Person(name="Ada"))
    engine.dispose()


def test_a_lock_held_too_long_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.database.BUSY_TIMEOUT_S", 0.1)
    engine = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(engine)
    other = sqlite3.connect(tmp_path / "heed.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseError, match="locked"), session(engine) as opened:
        opened.add(tables.Person(name="Ada"))
    other.close()
    engine.dispose()


def test_a_talk_is_stored_as_it_was(engine: Engine) -> None:
    talk: Talk = make_talk(engine)
    with session(engine) as opened:
        stored = opened.exec(select(tables.Candidate).order_by(tables.Candidate.side)).all()
    assert [row.id for row in stored] == [talk.candidate_a, talk.candidate_b]
    assert stored[0].seed == 2**62
