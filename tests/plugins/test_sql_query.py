"""Rows of a database become items; a query can change nothing, and no password is told."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import create_engine, make_url, text

from plugins.contract import (
    Complete,
    Document,
    GoldPair,
    Item,
    OptionsError,
    Question,
    Rejected,
    SecretError,
    SourceError,
)
from plugins.sql_query import SqlQuery
from plugins.testing import Place, source_tests
from service.plugin_fields import checked
from tests.conftest import PostgresCluster


class Articles(Place):
    """Three rows of an SQLite file, for everybody or for some."""

    wrong: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"query": "DELETE FROM articles"},
        {"query": ""},
        {"path": None},
        {"url": "postgresql+psycopg://ada@localhost/help"},
    )

    def settings(self) -> Mapping[str, Any]:
        self.path = self.folder / "help.db"
        self.run("CREATE TABLE articles (id TEXT, title TEXT, text TEXT, readers TEXT)")
        for number in range(3):
            self.add(f"Text {number}.")
        return {"path": str(self.path), "query": "SELECT * FROM articles ORDER BY id"}

    def run(self, statement: str, *values: str | None) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.execute(statement, values)
        connection.close()

    def add(self, text: str) -> str:
        with sqlite3.connect(self.path) as connection:
            (count,) = connection.execute("SELECT count(*) FROM articles").fetchone()
        connection.close()
        row = (f"a{count}", "An article", text, "everyone")
        self.run("INSERT INTO articles VALUES (?, ?, ?, ?)", *row)
        return row[0]

    def change(self) -> str:
        self.run("UPDATE articles SET text = 'Now this.' WHERE id = 'a1'")
        return "a1"

    def remove(self) -> str:
        self.run("DELETE FROM articles WHERE id = 'a1'")
        return "a1"

    def empty(self) -> None:
        self.run("DELETE FROM articles")

    def spoil(self) -> None:
        self.run("UPDATE articles SET text = '' WHERE id = 'a1'")

    def restrict(self) -> tuple[str, tuple[str, ...]]:
        self.run("UPDATE articles SET readers = ?  WHERE id = 'a1'", "group:hr, person:ada")
        return "a1", ("group:hr", "person:ada")

    def take_away(self) -> None:
        self.path.rename(self.folder / "away")

    def recover(self) -> None:
        (self.folder / "away").rename(self.path)


TestSqlQuery = source_tests(SqlQuery, Articles)


def source(**options: Any) -> SqlQuery:
    return SqlQuery(checked(SqlQuery.Settings, options))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "help.db"
    sqlite3.connect(made).close()
    return made


def read(file: Path, query: str) -> list[Item]:
    return list(source(path=str(file), query=query).items({}))


def test_columns_say_what_a_row_is(file: Path) -> None:
    gold = "SELECT 7 AS ID, ' How long? ' AS question, 'A day.' AS answer, '2026-03-31' AS updated"
    assert read(file, gold) == [
        GoldPair("7", "How long?", "A day.", None, datetime(2026, 3, 31, tzinfo=UTC)),
        Complete(),
    ]
    assert read(file, "WITH t AS (SELECT 1) SELECT 'q' AS id, 'Why?' AS question") == [
        Question("q", "Why?"),
        Complete(),
    ]
    page = "SELECT 'd' AS id, 'T' AS title, 'X' AS text, 'https://a.b' AS url"
    assert read(file, page)[0] == Document("d", "T", "X", "https://a.b")
    with pytest.raises(SourceError, match="brings the columns id, body; name them"):
        read(file, "SELECT 1 AS id, 'x' AS body")


def test_rows_that_cannot_be_used_are_rejected_alone(file: Path) -> None:
    rows = (
        "SELECT 'a' AS id, 'Why?' AS question, 'So.' AS answer, '' AS updated UNION ALL "
        "SELECT NULL, 'Why?', 'So.', '' UNION ALL SELECT 'a', 'Who?', 'Me.', '' UNION ALL "
        "SELECT 'b', 'When?', 'Now.', 'yesterday'"
    )
    items = read(file, rows)
    assert [(item.where, item.reason) for item in items if isinstance(item, Rejected)] == [
        ("row 2", "has no id"),
        ("id a", "stands in the rows twice; make the column id unique"),
        ("id b", "updated is 'yesterday'; give a date"),
    ]
    with pytest.raises(SourceError, match="none of the 1 rows"):
        read(file, "SELECT '' AS id, 'Why?' AS question, 'So.' AS answer")


def test_a_document_without_readers_where_there_is_such_a_column_is_for_nobody(file: Path) -> None:
    row = "SELECT 'd' AS id, 'T' AS title, 'X' AS text, NULL AS readers"
    document = read(file, row)[0]
    assert isinstance(document, Document)
    assert document.readers == ()


def test_a_query_changes_nothing(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE t (id TEXT, question TEXT)")
        connection.execute("INSERT INTO t VALUES ('a', 'Why?')")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(SourceError):
        read(file, "WITH x AS (SELECT 1) DELETE FROM t RETURNING id, question")
    assert file.read_bytes() == before


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is no file; check the source's option path"):
        read(tmp_path / "no.db", "SELECT 1 AS id, 'Why?' AS question")
    assert not (tmp_path / "no.db").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "give either the option url or the option path"),
        ({"url": "sqlite:////etc/x.db"}, "name an SQLite file by the option path"),
        ({"url": "postgresql://ada:hunter2@host/x"}, "put it into the option password"),
        ({"url": "no address"}, "is no database address"),
        ({"url": "cobol://host/x"}, "cannot be asked"),
        ({"path": "/a", "query": "DROP TABLE t"}, "one query that reads"),
        ({"path": "/a", "query": "-- SELECT\nUPDATE t SET x = 1"}, "one query that reads"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], told: str) -> None:
    with pytest.raises(OptionsError, match=told) as caught:
        source(**{"query": "SELECT 1 AS id, 'Why?' AS question", **options})
    assert "hunter2" not in str(caught.value)


@pytest.fixture
def help_desk(postgres: PostgresCluster) -> str:
    """The address of a PostgreSQL database with one article."""
    url = postgres.fresh()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE articles (id int, title text, text text, "
                "readers text[], updated timestamptz)"
            )
        )
        connection.execute(
            text(
                "INSERT INTO articles VALUES (1, 'Gym', 'At six.', "
                "ARRAY['group:hr'], '2026-03-31 12:00+02')"
            )
        )
    engine.dispose()
    return make_url(url).set(password=None).render_as_string()


def test_postgresql_is_read_in_a_transaction_that_can_only_read(help_desk: str) -> None:
    made = source(url=help_desk, query="SELECT * FROM articles")
    assert made.check() == "The query brings documents."
    moment = datetime(2026, 3, 31, 10, tzinfo=UTC)
    document = Document("1", "Gym", "At six.", None, moment, ("group:hr",))
    assert list(made.items({})) == [document, Complete()]
    delete = "WITH gone AS (DELETE FROM articles RETURNING *) SELECT * FROM gone"
    with pytest.raises(SourceError, match=r"read-only|data-modifying"):
        list(source(url=help_desk, query=delete).items({}))
    assert next(iter(made.items({}))) == document


def test_a_database_that_refuses_or_is_gone_is_told_without_secrets(help_desk: str) -> None:
    query = "SELECT 1 AS id, 'Why?' AS question"
    nobody = make_url(help_desk).set(username="nobody_here").render_as_string()
    with pytest.raises((SecretError, SourceError)) as caught:
        list(source(url=nobody, password="hunter2", query=query).items({}))
    assert "hunter2" not in str(caught.value)
    gone = "postgresql+psycopg://ada@127.0.0.1:1/help"
    with pytest.raises(SourceError, match="cannot be asked"):
        source(url=gone, query=query).check()
    with pytest.raises(SourceError, match=r"the query failed|cannot be asked"):
        source(url=help_desk, query="SELECT * FROM no_such_table").check()
