"""The database: opening it, bringing its tables up to date, and sessions on it.

SQLite and PostgreSQL behave alike here: a read holds no lock, the first write of a
session takes its locks, and what others committed meanwhile is seen (PostgreSQL's
"read committed"). What the rows mean is told in tables.py; the migrations are in
migrations/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from sqlalchemy import Connection, CursorResult, Engine, event, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session, SQLModel, col, create_engine

from service.errors import DatabaseError, InvalidInputError

if TYPE_CHECKING:
    from alembic.config import Config

SchemaState = Literal["current", "behind", "empty", "ahead"]

CHUNK = 400
"""Rows or ids of one statement; SQLite allows no more than 32,766 values in it."""

Item = TypeVar("Item")

BUSY_TIMEOUT_S = 10
"""How long a write waits for another process's write on SQLite."""

MIGRATION_LOCK = 0x48454544
"""Number of the PostgreSQL advisory lock that lets one process migrate at a time."""


def open_database(url: str) -> Engine:
    """Open the database and try one connection.

    Makes the folder of a SQLite file. DatabaseError where the URL names no usable
    driver or file, or the server cannot be reached.
    """
    parsed = _parse(url)
    engine = _sqlite(parsed) if parsed.drivername == "sqlite" else _postgresql(parsed)
    try:
        with engine.connect():
            pass
    except DBAPIError as error:
        engine.dispose()
        raise DatabaseError(_why_unreachable(parsed, error)) from error
    return engine


def migrate(engine: Engine) -> None:
    """Bring the tables to this version's; does nothing where they are.

    Safe when several processes start at once: one migrates, the others wait. All of
    it is one transaction. DatabaseError where the tables are of a newer version, or
    cannot be written.
    """
    from alembic import command  # noqa: PLC0415, RUF100 - slow to import, and rarely needed

    try:
        with engine.begin() as connection:
            _lock_for_migration(connection)
            if _state(connection) == "ahead":
                raise DatabaseError(_AHEAD)
            command.upgrade(alembic_config(connection), "head")
    except DBAPIError as error:
        raise DatabaseError(f"the tables could not be brought up to date: {error.orig}") from error


def schema_state(engine: Engine) -> SchemaState:
    """How the tables stand to this version: "empty" before the first migration, "behind" or
    "ahead" where another version of Heed wrote them."""
    try:
        with engine.connect() as connection:
            return _state(connection)
    except DBAPIError as error:
        raise DatabaseError(_why_unreachable(engine.url, error)) from error


def check_schema(engine: Engine) -> None:
    """DatabaseError, saying what to do, unless the tables are this version's."""
    state = schema_state(engine)
    if state == "ahead":
        raise DatabaseError(_AHEAD)
    if state != "current":
        raise DatabaseError(
            f"the database {shown(engine.url)} is {state}: its tables are not those of this "
            "version; a start of Heed that migrates (heed serve, heed demo) brings them up to date"
        )


def alembic_config(connection: Connection) -> Config:
    """Alembic's settings for a command on this connection, `alembic.command.revision` among
    them; nothing is read from an alembic.ini."""
    from alembic.config import Config  # noqa: PLC0415, RUF100 - slow to import

    config = Config()
    folder = Path(__file__).with_name("migrations")
    # ConfigParser reads % as the start of a variable.
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def session(engine: Engine) -> Iterator[Session]:
    """A session that commits when the block ends well and rolls back when it raises.

    On SQLite the first write takes the only write lock, until commit: do no slow work
    after it. DatabaseError where the database is locked, full, busy, read-only, a standby or
    gone, InvalidInputError for a value that it cannot hold (NUL in a text, on PostgreSQL). A
    broken constraint and a wrong statement are raised as they are.
    """
    try:
        with Session(engine, expire_on_commit=False) as opened:
            yield opened
            opened.commit()
    except DataError as error:
        raise InvalidInputError(
            f"the input holds a value that cannot be kept, nothing was changed: {error.orig}"
        ) from error
    except (IntegrityError, ProgrammingError):
        raise
    except DBAPIError as error:
        raise DatabaseError(
            f"the database {shown(engine.url)} could not do it, nothing was changed: {error.orig}"
        ) from error
    except PoolTimeoutError as error:
        raise DatabaseError(
            "all connections to the database were in use for too long, nothing was changed; "
            "try again"
        ) from error


def insert_unless_there(session: Session, row: SQLModel) -> bool:
    """Insert the row by one statement, unless one of its unique keys is taken; False then.

    The row does not become part of the session.
    """
    table = inspect(type(row)).local_table
    values = row.model_dump()
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**values).on_conflict_do_nothing()
    written = session.connection().execute(statement.returning(*table.primary_key))
    return written.first() is not None


def chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items, at most CHUNK at a time."""
    rest = iter(items)
    while some := list(islice(rest, CHUNK)):
        yield some


def matching(session: Session, query: Any, column: Any, ids: Iterable[str]) -> Iterator[Any]:
    """The query's rows whose column is one of the ids, some ids a statement."""
    for some in chunks(ids):
        yield from session.exec(query.where(col(column).in_(some)))


def changed_rows(result: Any) -> int:
    """How many rows an INSERT, UPDATE or DELETE changed."""
    return cast("CursorResult[Any]", result).rowcount


def shown(url: URL) -> str:
    """The URL without its password, for messages."""
    return url.render_as_string(hide_password=True)


_AHEAD = (
    "the database was written by a newer version of Heed; install that version, or restore "
    "the backup taken before the upgrade"
)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseError(
            "database_url is no URL; write sqlite:///path/to/heed.db or "
            "postgresql+psycopg://user:password@host/name"
        ) from error
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return parsed.set(drivername="sqlite")
    if parsed.drivername != "postgresql+psycopg":
        raise DatabaseError(
            f"database_url begins with {parsed.drivername}://, which is not supported; "
            "write sqlite:/// or postgresql+psycopg://"
        )
    return parsed


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise DatabaseError(
            f"database_url is {shown(url)}, which keeps nothing; name a file: sqlite:///heed.db"
        )
    path = Path(url.database)
    if path.is_dir():
        raise DatabaseError(f"{path} is a folder; database_url must name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(f"the database's folder {path.parent} cannot be made: {error}") from (
            error
        )
    # IMMEDIATE: the driver begins a transaction at the first write and asks for the write lock
    # there, so that a session that read first never fails for having to upgrade its lock.
    engine = create_engine(
        url, connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": "IMMEDIATE"}
    )
    event.listen(engine, "connect", _set_pragmas)
    return engine


def _postgresql(url: URL) -> Engine:
    return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})


def _set_pragmas(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    # Else an INSERT OR REPLACE would delete rows without their append-only triggers.
    connection.execute("PRAGMA recursive_triggers=ON")


def _why_unreachable(url: URL, error: DBAPIError) -> str:
    if url.drivername == "sqlite":
        return (
            f"the database file {url.database} cannot be used: {error.orig}; check that it is a "
            "SQLite file and that this user may write it and its folder"
        )
    return (
        f"the database {shown(url)} cannot be reached: {str(error.orig).strip()}; check that the "
        "server runs, and the host, name, user and password in database_url"
    )


def _state(connection: Connection) -> SchemaState:
    from alembic.migration import MigrationContext  # noqa: PLC0415, RUF100 - slow to import
    from alembic.script import ScriptDirectory  # noqa: PLC0415, RUF100 - slow to import

    script = ScriptDirectory.from_config(alembic_config(connection))
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None:
        return "empty"
    if current == script.get_current_head():
        return "current"
    known = {revision.revision for revision in script.walk_revisions()}
    return "behind" if current in known else "ahead"


def _lock_for_migration(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
    else:
        # The driver begins no transaction of its own for CREATE TABLE.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
