"""The whole demonstration with a tiny random policy, killed half-way and run again."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.tiny import tiny_base

WITHOUT_TORCH = """
import sys
from service.cli import main
code = main(sys.argv[1:])
sys.exit("the demonstration's own process loaded torch" if "torch" in sys.modules else code)
"""

ENVIRONMENT = {"COLUMNS": "120", "HEED_TRAINING__NICENESS": "0"}
"""Training that yields to the tests beside it would take many times as long."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def start(home: Path, base: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    options = ("--minutes", "1", "--home", str(home), "--port", str(port))
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", WITHOUT_TORCH, "demo", "--once", *options],
            stdout=output,
            stderr=output,
            env=os.environ | ENVIRONMENT | {"HEED_BASE_POLICY": str(base)},
        )


def wait_for_stage(home: Path, cycle: str, stage: str, demo: subprocess.Popen[bytes]) -> None:
    paused = threading.Event()
    while demo.poll() is None:
        known = home / "demo.json"
        runs = json.loads(known.read_text())["runs"] if known.exists() else {}
        progress = home / "runs" / runs.get(cycle, "none") / "progress.json"
        if progress.exists() and json.loads(progress.read_text())["stage"] == stage:
            return
        paused.wait(0.05)
    raise AssertionError("the demonstration ended early")


def test_killed_half_way_the_demonstration_goes_on_where_it_stopped(
    tmp_path: Path, unused_port: int
) -> None:
    base, home, log = tiny_base(tmp_path / "base"), tmp_path / "home", tmp_path / "log"
    first = start(home, base, unused_port, log)
    try:
        wait_for_stage(home, "cycle 2", "ppo", first)
    finally:
        family = psutil.Process(first.pid).children(recursive=True)
        first.send_signal(signal.SIGKILL)
        first.wait()
    _gone, alive = psutil.wait_procs(family, timeout=20)
    assert alive == [], "server and worker must not outlive the demonstration"
    before = json.loads((home / "demo.json").read_text())
    drawn = _count(home, "candidate")
    again = start(home, base, unused_port, log)
    assert again.wait(600) == 0, log.read_text()
    said = log.read_text()
    after = json.loads((home / "demo.json").read_text())
    assert after["runs"] == before["runs"]
    assert (after["sizes"], after["finished"][-1]) == (before["sizes"], "tables")
    assert _count(home, "candidate") == drawn == 2 * after["sizes"]["pairs"]
    assert _count(home, "comparison") == _count(home, "comparison WHERE simulated") > 0
    assert _count(home, "training_run") == 2
    assert "simulated" in said
    assert "PPO over SFT" in said
    report = json.loads((home / "report.json").read_text())
    assert set(report["policies"]) == {"base", "SFT", "PPO"}
    assert report["feedback"] == "simulated"
    assert 0 < report["peak_mb"] <= 4000
    assert {"demo", "server"} <= set(report["peak"]["held_mb"])
    assert "scoring the answers to the exam" in said


def _count(home: Path, rows: str) -> int:
    connection = sqlite3.connect(home / "heed.db")
    try:
        return int(connection.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])
    finally:
        connection.close()


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
