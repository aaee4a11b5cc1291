"""A data source for the rows of a database, by one query.

Any database that SQLAlchemy knows; its driver must be installed. The columns say what a row is:
`id`, `title` and `text` (and `url`, `updated`, `readers`) a document; `id`, `question` and `answer`
(and `author`, `updated`) a gold pair; `id` and `question` a question to practise on. Only reading
is allowed where the database can be told so, and every transaction is rolled back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, SecretStr
from sqlalchemy import URL, Connection, create_engine, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from plugins.contract import (
    Complete,
    Cursor,
    DataSource,
    Document,
    GoldPair,
    Item,
    OptionsError,
    Question,
    Rejected,
    SecretError,
    SourceError,
)
from plugins.hookspecs import hookimpl

ROWS_AT_ONCE = 500
LONGEST_TEXT = 2_000_000
FORMS: Mapping[str, tuple[str, ...]] = {
    "document": ("id", "title", "text"),
    "gold_pair": ("id", "question", "answer"),
    "question": ("id", "question"),
}
_READS = re.compile(
    r"\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*(?:select|with|values|table)\b", re.I | re.S
)
_READ_ONLY = {
    "postgresql": "SET TRANSACTION READ ONLY",
    "mysql": "SET TRANSACTION READ ONLY",
    "mariadb": "SET TRANSACTION READ ONLY",
    "oracle": "SET TRANSACTION READ ONLY",
    "sqlite": "PRAGMA query_only = ON",
}
_REFUSED = re.compile(r"password|authentication|access denied|not permitted|login failed", re.I)


def _reads(value: str) -> str:
    if _READS.match(value):
        return value
    raise ValueError("give one query that reads, beginning with SELECT or WITH")


class SqlQuery:
    """The rows that a query reads from a database of yours."""

    name = "sql_query"

    class Settings(BaseModel):
        url: str = Field(
            default="",
            description="The database, like postgresql+psycopg://user@host/name, without password.",
        )
        password: SecretStr | None = Field(default=None, description="The password of its user.")
        path: Path | None = Field(default=None, description="In the place of url: an SQLite file.")
        query: Annotated[str, AfterValidator(_reads)] = Field(
            description="Reads the columns id, title and text, or id, question and answer."
        )

    def __init__(self, settings: Settings) -> None:
        self._query = settings.query
        self._url = _url(settings)
        self._path = settings.path
        try:
            self._engine = create_engine(self._url, poolclass=NullPool)
        except (ArgumentError, NoSuchModuleError, ImportError, TypeError, ValueError) as error:
            raise OptionsError(
                f"the database of the option url cannot be asked ({error}); "
                "check its beginning, and that its driver is installed"
            ) from error

    def check(self) -> str:
        """Connect, run the query, and say what its rows are."""
        with self._reading() as connection:
            result = connection.execution_options(max_row_buffer=1).execute(text(self._query))
            form = self._form([name.casefold() for name in tuple(result.keys())])
            result.close()
        return f"The query brings {form.replace('_', ' ')}s."

    def items(self, cursor: Cursor) -> Iterator[Item]:  # noqa: ARG002 - always lists everything
        """Yield an item or Rejected for each row, then Complete.

        Raises SourceError where the database cannot be asked, the query fails, or it brings no row
        that can be used (which would remove everything known); SecretError where the database
        does not take the password.
        """
        rows, seen = 0, set[str]()
        with self._reading() as connection:
            options: dict[str, Any] = {"yield_per": ROWS_AT_ONCE}
            with connection.execute(text(self._query), execution_options=options) as result:
                names = [name.casefold() for name in tuple(result.keys())]
                form = self._form(names)
                for row in result:
                    rows += 1
                    item = _item(form, dict(zip(names, row, strict=True)), f"row {rows}", seen)
                    if not isinstance(item, Rejected):
                        seen.add(item.id)
                    yield item
        if not seen:
            raise SourceError(
                f"none of the {rows} rows that the query brought can be used, so nothing was "
                "changed; check the query, and what was rejected"
            )
        yield Complete()

    def _form(self, names: Sequence[str]) -> str:
        for form, needed in FORMS.items():
            if all(name in names for name in needed):
                return form
        raise SourceError(
            f"the query brings the columns {', '.join(names)}; name them id, title, text for "
            "documents, or id, question, answer for gold pairs (SELECT number AS id, ...)"
        )

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection that may only read; whatever happens on it is rolled back."""
        if self._path is not None and not self._path.is_file():
            raise SourceError(f"{self._path} is no file; check the source's option path")
        try:
            with self._engine.connect() as connection:
                statement = _READ_ONLY.get(connection.dialect.name)
                if statement:
                    connection.exec_driver_sql(statement)
                yield connection
                connection.rollback()
        except (OperationalError, InterfaceError) as error:
            told = _told(error)
            if _REFUSED.search(told):
                raise SecretError(f"the database does not take the user: {told}") from error
            raise SourceError(f"the database cannot be asked: {told}") from error
        except SQLAlchemyError as error:
            raise SourceError(f"the query failed: {_told(error)}") from error
        except ImportError as error:
            raise OptionsError(
                f"the driver of the option url is not installed ({error})"
            ) from error


def _url(settings: SqlQuery.Settings) -> URL:
    if (settings.path is None) == (not settings.url):
        raise OptionsError("give either the option url or the option path, of an SQLite file")
    if settings.path is not None:
        # Through SQLite's own read-only mode: the file is never made, and never written.
        name = f"file:{settings.path.resolve().as_posix()}"
        return URL.create("sqlite", database=name, query={"mode": "ro", "uri": "true"})
    try:
        url = make_url(settings.url)
    except ArgumentError as error:
        raise OptionsError(
            "the option url is no database address; give one like "
            "postgresql+psycopg://user@host/name"
        ) from error
    if url.password is not None:
        raise OptionsError("the option url holds a password; put it into the option password")
    if url.get_backend_name() == "sqlite":
        raise OptionsError("name an SQLite file by the option path, not by url")
    return url.set(password=settings.password.get_secret_value()) if settings.password else url


def _item(
    form: str, row: Mapping[str, Any], where: str, seen: set[str]
) -> Document | GoldPair | Question | Rejected:
    values = {name: _plain(row.get(name)) for name in ("id", "title", "text", "question", "answer")}
    where = f"id {values['id'][:200]}" if values["id"] else where
    for name in FORMS[form]:
        if not values[name]:
            return Rejected(where, f"has no {name}")
        if len(values[name]) > LONGEST_TEXT:
            return Rejected(where, f"{name} has more than {LONGEST_TEXT} characters")
    if values["id"] in seen:
        return Rejected(where, "stands in the rows twice; make the column id unique")
    try:
        updated = _moment(row.get("updated"))
    except (ValueError, OverflowError):
        return Rejected(where, f"updated is {row.get('updated')!r:.60}; give a date")
    if form == "document":
        url, readers = _plain(row.get("url")) or None, _readers(row)
        return Document(values["id"], values["title"], values["text"], url, updated, readers)
    if form == "gold_pair":
        author = _plain(row.get("author")) or None
        return GoldPair(values["id"], values["question"], values["answer"], author, updated)
    return Question(values["id"], values["question"])


def _readers(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Comma-separated or an array; everyone only where the query brings no such column."""
    if "readers" not in row:
        return ("everyone",)
    given = row["readers"]
    parts = given if isinstance(given, list | tuple) else _plain(given).split(",")
    return tuple(filter(None, (_plain(part) for part in parts)))


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return str(value).replace("\x00", "").strip()


def _moment(value: Any) -> datetime | None:
    if value is None or value == "":
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _told(error: SQLAlchemyError) -> str:
    """The driver's own words, without the statement and its parameters."""
    return " ".join(str(getattr(error, "orig", None) or error).split())[:500]


@hookimpl
def heed_data_sources() -> Sequence[type[DataSource]]:
    """One source."""
    return (SqlQuery,)
