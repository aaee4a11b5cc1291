"""What every test may ask for: a fresh database, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST
from sqlalchemy import Engine

from service import passwords
from service.database import migrate, open_database

# Read once, when torch loads: threads that wait should soon leave the cores to other processes.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# A tiny policy's products are too small to share out, and threads that wait for a busy core
# make them many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LONG = ("test_demo_loop.py", "test_training.py", "test_pipeline.py", "test_plugin_host.py")
"""Files of minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first: a file stays with one worker, and the last one would work alone."""
    items.sort(key=lambda item: item.path.name not in LONG)


class PostgresCluster:
    """A private PostgreSQL server in a temporary folder, reached by a socket in it only."""

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="heed-pg-"))
        self._template: str | None = None
        # PostgreSQL refuses to run as root.
        self._user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if os.geteuid() == 0:
            os.chown(self.folder, 65534, 65534)
        else:
            self._user = ["setpriv"]
        self._run(
            "initdb",
            "-D",
            f"{self.folder}/data",
            "-U",
            "heed",
            "-A",
            "trust",
            "--no-sync",
            "--locale=C.UTF-8",
        )
        self._log = (self.folder / "log").open("wb")
        self._server = self._start()

    def fresh(self) -> str:
        """URL of a new, empty database."""
        return self._create("template0")

    def fresh_migrated(self) -> str:
        """URL of a new, migrated database; a copy, which is faster than migrating."""
        if self._template is None:
            url = self.fresh()
            engine = open_database(url)
            migrate(engine)
            engine.dispose()
            self._template = url.split("/")[3].split("?")[0]
        return self._create(self._template)

    def stop(self) -> None:
        """Stop the server and remove its folder."""
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(30)
        self._log.close()
        shutil.rmtree(self.folder)

    def _create(self, template: str) -> str:
        name = f"t{secrets.token_hex(6)}"
        self._run("createdb", "-h", str(self.folder), "-U", "heed", "-T", template, name)
        return f"postgresql+psycopg://heed@/{name}?host={self.folder}"

    def _start(self) -> subprocess.Popen[bytes]:
        settings = ["listen_addresses=", "fsync=off", f"unix_socket_directories={self.folder}"]
        options = [part for setting in settings for part in ("-c", setting)]
        command = [f"{self.binaries}/postgres", "-D", f"{self.folder}/data", *options]
        server = subprocess.Popen(
            # A test run that is killed takes its server with it.
            [*self._user, "--pdeathsig", "INT", *command],
            stdout=self._log,
            stderr=self._log,
        )
        ready = [f"{self.binaries}/pg_isready", "-q", "-h", str(self.folder)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert server.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        return server

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._user, f"{self.binaries}/{program}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, f"{program}: {done.stderr}"


@pytest.fixture(autouse=True)
def log_configuration() -> Iterator[None]:
    """What a program under test does to the log of its process ends with its test."""
    found = structlog.get_config()
    yield
    structlog.configure(**found)


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """Passwords hashed in a moment: what makes them hard to guess would take minutes here."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(passwords, "_hasher", PasswordHasher.from_parameters(CHEAPEST))
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    """The PostgreSQL server of this test run, started by the first test that needs it."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    on_path = shutil.which("postgres")
    if not installed and on_path is None:
        pytest.skip("no PostgreSQL binaries found; install postgresql to run these tests")
    cluster = PostgresCluster((installed[-1] if installed else Path(str(on_path))).parent)
    yield cluster
    cluster.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/heed.db"
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    return cluster.fresh()


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A migrated database, once on each kind."""
    if request.param == "sqlite":
        opened = open_database(f"sqlite:///{tmp_path}/heed.db")
        migrate(opened)
    else:
        cluster: PostgresCluster = request.getfixturevalue("postgres")
        opened = open_database(cluster.fresh_migrated())
    yield opened
    opened.dispose()
