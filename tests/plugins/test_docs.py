"""The tutorial docs/plugins.md is true: its files are installed, loaded, run and tested."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.contract import Complete, Document
from rlhf_engine import Prompt, SignalInput
from service.plugin_host import PluginHost
from service.settings import load_settings

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with every file that the tutorial shows, under the name in its first line."""
    text = (ROOT / "docs" / "plugins.md").read_text("utf-8")
    assert text.count("\n```python\n") + text.count("\n```toml\n") == len(_BLOCK.findall(text))
    for name, content in _BLOCK.findall(text):
        (tmp_path / name).write_text(content)
    return tmp_path


def run(*command: str, cwd: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tutorials_package_installs_and_its_plugins_work(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = package / "installed"
    offline = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet")
    run("pip", "install", *offline, "--target", str(target), ".", cwd=package)
    monkeypatch.syspath_prepend(target)
    monkeypatch.setenv("HEED_CONFIG", str(package / "heed.toml"))
    monkeypatch.chdir(package)
    (package / "notes").mkdir()
    (package / "notes" / "parking.txt").write_text("Park behind the house.")
    (package / "faq.csv").write_text("question;answer\nWho?;Me, of course.\n")
    (package / "exam.csv").write_text("question,answer\nWhere?,There.\n")
    (package / "handbook").mkdir()
    (package / "handbook" / "leave.md").write_text("# Leave\n\nThirty days.\n")

    host, settings = PluginHost.load(), load_settings()
    assert [info.error for info in host.plugins()] == [None] * 6
    items = [list(host.data_source(source).items({})) for source in settings.sources]
    assert items[0] == [Document("parking.txt", "parking", "Park behind the house."), Complete()]
    assert [len(found) for found in items] == [2, 2, 2, 2]
    answer = SignalInput(Prompt("q1", "When is the fair?"), "On 2026-05-01.")
    readings = {s.name: s.read_batch([answer]) for s in host.reward_signals(settings.signals)}
    assert readings == {"dated": [1.0], "grounded": [None], "short": [1.0]}


def test_the_tutorials_own_tests_pass(package: Path) -> None:
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", str(package))
    run("pytest", *options, "test_heed_notes.py", cwd=package)
