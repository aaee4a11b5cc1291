"""The benchmark of killed publishes at its smallest, and it sees what is torn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Delete, Update, delete, update

from service.database import session
from service.tables import Alias, PolicyVersion
from tests.benchmarks.crash_publish import Home, opened

ROOT = Path(__file__).parents[2]


def test_a_publish_killed_a_few_times_leaves_one_live_version() -> None:
    """In a process of its own: this one has started threads, and cannot be forked."""
    command = [sys.executable, "-m", "tests.benchmarks.crash", "--kills", "6", "--restarts", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "all: 6 kills, 6 left one live version" in done.stdout
    assert "restart to the first answer" in done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = Home(tmp_path_factory.mktemp("home"))
    made.make()
    return made


def test_a_deployment_that_nobody_killed_is_whole(home: Home) -> None:
    assert home.look() in {path.name for path in home.settings.policies.iterdir()}


@pytest.mark.parametrize(
    "tear", [delete(Alias), update(PolicyVersion).values(state="retired")], ids=["alias", "state"]
)
def test_what_is_torn_is_seen(tmp_path: Path, tear: Delete | Update) -> None:
    torn = Home(tmp_path)
    torn.make()
    with opened(torn.settings) as database, session(database) as rows:
        rows.execute(tear)
    with pytest.raises(ValueError, match="aliases"):
        torn.look()
