"""What deploy/ promises: facts of the files, and the container file followed to a live server."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.follow_containerfile import Step, parse
from service.settings import Settings
from tests.deploy.facts import app_of, settings_names
from tests.tiny import tiny_base

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def container_steps() -> list[Step]:
    return parse((DEPLOY / "Containerfile").read_text("utf-8"))


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return loaded


def last_stage(steps: list[Step]) -> dict[str, str]:
    """The last argument of each instruction in the stage that becomes the image."""
    begin = max(number for number, step in enumerate(steps) if step.instruction == "FROM")
    return {step.instruction: step.argument for step in steps[begin:]}


def test_the_image_runs_as_a_number_that_is_not_root(container_steps: list[Step]) -> None:
    user, group = last_stage(container_steps)["USER"].split(":")
    assert int(user) >= 10000
    assert int(group) >= 10000


def test_the_image_holds_no_development_packages(container_steps: list[Step]) -> None:
    installs = [s.argument for s in container_steps if re.search(r"\bpip install\b", s.argument)]
    assert len(installs) == 1
    assert "-c constraints.txt" in installs[0]
    assert "[dev]" not in installs[0]


def test_the_image_imports_safely_and_keeps_its_state_in_the_volume(
    container_steps: list[Step],
) -> None:
    stage = last_stage(container_steps)
    assert "PYTHONSAFEPATH=1" in stage["ENV"].split()
    assert f"HEED_HOME={stage['VOLUME']}" in stage["ENV"].split()


def test_the_health_check_asks_a_route_of_the_app(
    container_steps: list[Step], tmp_path: Path
) -> None:
    asked = re.search(r"/health/\w+", last_stage(container_steps)["HEALTHCHECK"])
    routes = {route.path for route in app_of(tmp_path).routes}
    assert asked is not None
    assert asked.group() in routes


def test_the_build_context_holds_what_is_copied(container_steps: list[Step]) -> None:
    lines = (DEPLOY.parent / ".dockerignore").read_text("utf-8").splitlines()
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copies = [s.argument.split() for s in container_steps if s.instruction == "COPY"]
    sources = {word for words in copies if "--from" not in words[0] for word in words[:-1]}
    assert lines[0] == "*"
    assert sources == let_in
    assert all((DEPLOY.parent / source).exists() for source in sources)


def test_compose_starts_heed_after_a_healthy_database(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["heed"]["depends_on"]["database"]["condition"] == "service_healthy"
    assert "pg_isready" in services["database"]["healthcheck"]["test"][1]
    address = services["heed"]["environment"]["HEED_DATABASE_URL"]
    assert address.startswith("postgresql+psycopg://heed@database")


def test_compose_holds_no_secret_and_listens_on_loopback_only(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service, name in (("heed", "PGPASSWORD"), ("database", "POSTGRES_PASSWORD")):
        assert services[service]["environment"][name].startswith("${POSTGRES_PASSWORD:?")
    assert services["heed"]["env_file"] == ".env"
    assert all(port.startswith("127.0.0.1:") for port in services["heed"]["ports"])
    assert "ports" not in services["database"]


def test_compose_lets_heed_write_to_its_volume_alone(compose: dict[str, Any]) -> None:
    heed = compose["services"]["heed"]
    assert heed["read_only"] is True
    writable = [mount for mount in heed["volumes"] if not mount.endswith(":ro")]
    assert writable == [f"heed:{heed['environment']['HEED_HOME']}"]


def test_the_unit_is_hardened_and_restarts(tmp_path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "heed.service")
    expected = {
        "User": "heed",
        "ProtectSystem": "strict",
        "StateDirectory": "heed",
        "NoNewPrivileges": "yes",
        "Restart": "on-failure",
        "KillSignal": "SIGTERM",
        "TimeoutStopSec": "90s",
    }
    assert expected.items() <= dict(unit["Service"]).items()
    # torch writes machine code at run time and would be killed.
    assert "MemoryDenyWriteExecute" not in unit["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "heed.service").read_text("utf-8")
    unit = tmp_path / "heed.service"
    # The command is looked for, too.
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text), "utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    "name", ["Containerfile", "compose.yaml", "heed.service", "heed.env.example", "README.md"]
)
def test_every_setting_named_is_a_true_one(name: str) -> None:
    named = set(re.findall(r"\bHEED_[A-Z_]*[A-Z]\b", (DEPLOY / name).read_text("utf-8")))
    assert named
    assert named <= settings_names()


def test_the_examples_are_valid_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEED_CONFIG", str(DEPLOY / "heed.toml.example"))
    for line in (DEPLOY / "heed.env.example").read_text("utf-8").splitlines():
        found = re.fullmatch(r"#?(HEED_[A-Z_]+)=(.*)", line)
        if found and found[1] != "HEED_CONFIG":
            monkeypatch.setenv(found[1], found[2])
    settings = Settings()
    assert [source.name for source in settings.sources] == ["handbook", "faq", "exam"]
    assert settings.training.approval_required


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that other users may enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory(prefix="heed-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.timeout(900)
def test_the_container_files_steps_lead_to_a_server_that_answers(open_folder: Path) -> None:
    base = tiny_base(open_folder / "base")
    for path in (base, *base.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    script = [sys.executable, str(DEPLOY / "follow_containerfile.py"), "--until-ready"]
    lent = ["--borrow", sysconfig.get_path("purelib"), "--env", f"HEED_BASE_POLICY={base}"]
    done = subprocess.run(
        [*script, *lent],
        env={**os.environ, "TMPDIR": str(open_folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    oks = [line for line in done.stdout.splitlines() if line.startswith("ok: ")]
    assert [line.split()[1].rstrip(",") for line in oks] == ["the", "healthy", "ready", "stopped"]
    assert [left.name for left in open_folder.iterdir()] == ["base"]
