"""docs/plugins.md is true: what it shows is written, tested, checked, installed and used."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from plugins.conformance.checking import NotChecked
from plugins.conformance.source_reading import SourceSubject
from plugins.contract import Complete, GoldPair, Question, Rejected
from plugins.testing import SOURCE_CHECKS, SOURCE_HOOK
from rlhf_engine import Prompt, SignalInput
from service.plugin_host import PluginHost
from service.settings import load_settings
from tests.plugins.wiki_server import WikiServer

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OURS = "tickets dated wiki others"
OPTIONS = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--target")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every file that the page shows, under the name in its first line."""
    text = (ROOT / "docs" / "plugins.md").read_text("utf-8")
    assert text.count("\n```python\n") + text.count("\n```toml\n") == len(_BLOCK.findall(text))
    for name, content in _BLOCK.findall(text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def heed(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path or cwd), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tutorial_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_tutorials_tests_pass_and_its_plugins_keep_the_contract(folder: Path) -> None:
    told = heed("plugins", "test", cwd=folder)
    assert "failed" not in told
    assert int(told.split(" passed")[0].split()[-1]) >= 60
    checked = heed("plugins", "check", *OURS.split(), cwd=folder)
    for line in (
        "tickets: source tickets",
        "dated: signal dated",
        "wiki: source wiki",
        "others: observer diary",
        "others: redactor numberless",
        "others: reranker short_first",
    ):
        assert f"ok  {line}" in checked


def test_the_tutorials_settings_bring_the_tickets_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "tickets.jsonl").write_text(
        '{"id": "T1", "question": "When is lunch?", "answer": "At noon."}\n'
        '{"id": "T2", "question": "Where do I park?", "answer": ""}\nno ticket\n'
    )
    settings = load_settings()
    host = PluginHost.load(settings)
    items = list(host.data_source(settings.sources[0]).items({}))
    assert items[0] == GoldPair("T1", "When is lunch?", "At noon.")
    assert items[1] == Question("T2", "Where do I park?")
    assert isinstance(items[2], Rejected)
    assert items[2].where == "tickets.jsonl line 3"
    assert items[3:] == [Complete()]
    answer = SignalInput(Prompt("q1", "When is the fair?"), "On 2026-05-01.")
    readings = {s.name: s.read_batch([answer]) for s in host.reward_signals(settings.signals)}
    assert readings == {"dated": [1.0], "short": [1.0]}


def test_the_tutorials_package_is_installed(folder: Path) -> None:
    package, target = folder / "package", folder / "installed"
    shutil.move(folder / "heed-data" / "plugins" / "tickets.py", package)
    told = heed("plugins", "install", "./package", *OPTIONS, str(target), cwd=folder, path=target)
    assert "installed: tickets" in told
    checked = heed("plugins", "check", "tickets", cwd=folder, path=target)
    assert "ok  tickets: source tickets" in checked


def test_the_tutorials_network_source_keeps_the_contract(folder: Path) -> None:
    wiki = module_of(folder / "heed-data" / "plugins" / "wiki.py").Wiki
    skipped = {}
    for check in SOURCE_CHECKS:
        place = WikiServer(folder)
        try:
            check.run(SourceSubject(wiki, SOURCE_HOOK, place))
        except NotChecked as reason:
            skipped[check.name] = str(reason)
        finally:
            place.close()
    assert set(skipped) <= {
        "wrong_settings_are_refused",
        "unusable_record_is_rejected_alone",
        "rights_are_carried",
    }


def test_a_signal_has_ten_lines_and_a_source_twenty(folder: Path) -> None:
    def lines_of_class(text: str) -> int:
        body = text.split("\nclass ")[1].split("\n@hookimpl")[0]
        return len([line for line in body.splitlines() if line.strip()])

    dated = (folder / "heed-data" / "plugins" / "dated.py").read_text()
    assert lines_of_class(dated) <= 10
    source = (ROOT / "service" / "plugin_templates" / "source.txt").read_text()
    assert lines_of_class(source) <= 20
