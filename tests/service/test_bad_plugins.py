"""Whatever a plugin does, its process alone suffers: it is named, and everything else goes on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from plugins.contract import Complete, Document
from rlhf_engine import Prompt, SignalInput
from rlhf_engine.signals import read_signal
from service import run_signals
from service.errors import PluginFailure, SourceBusyError
from service.plugin_host import PluginHost
from service.plugin_limits import PluginLimits
from service.run_signals import RunSignals, take_calls, write_signals
from service.settings import Settings, SignalSettings, SourceSettings
from service.wording import storable

LIMITS = PluginLimits(call_s=2, start_s=5, memory_mb=256, failures=2)

TEMPLATE = """
import builtins, ctypes, json, os, socket, sys, time
import pluggy
hookimpl = pluggy.HookimplMarker("heed")
{top}
kept = []

def misbehave(self=None):
    {body}

class Signal:
    name = "bad"
    def __init__(self, settings): ...
    def read(self, answer):
        return misbehave(self)

class Source:
    name = "bad"
    def __init__(self, settings): ...
    def items(self, cursor):
        yield dict(kind="document", id="1", title="A", text="a")
        given = misbehave(self)
        if given != 0.5:
            yield given
        yield dict(kind="complete")

@hookimpl
def heed_reward_signals():
    return [Signal]

@hookimpl
def heed_data_sources():
    return [Source]
"""

BAD: dict[str, tuple[str, str | None]] = {
    "raise": ("raise ValueError('boom')", "ValueError: boom"),
    "hang": ("time.sleep(600)", "did not answer within 2 s; its process was ended"),
    "leak": ("\n    while True: kept.append(bytearray(10 << 20))", "asked for more than 256 MB"),
    "exit": ("sys.exit(3)", "SystemExit: 3"),
    "exit at once": ("os._exit(7)", "its process ended with exit code 7"),
    "crash": ("ctypes.string_at(0)", "its process died of SIGSEGV"),
    "fork": ("\n    if os.fork() == 0: time.sleep(600)\n    return 0.5", None),
    "fork and come back": ("\n    os.fork()\n    return 0.5", None),
    "print": (
        "\n    print('{}' * 1_000_000)\n    os.write(2, b'x' * 100_000)\n    return 0.5",
        None,
    ),
    "mutate": ("\n    builtins.len = json.loads = None\n    os.chdir('/')\n    return 0.5", ""),
    "write into our pipes": (
        "\n    for number in range(3, 4096):"
        "\n        try: os.write(number, b'{}' + bytes([10]))"
        "\n        except OSError: pass"
        "\n    return 0.5",
        "sent what is no message; its process was ended",
    ),
    "wrong type": ("return object()", "a object"),
    "bad unicode": ("raise ValueError('\\ud800\\0')", "ValueError: ?"),
    "recursion": ("return misbehave(self)", "RecursionError"),
    "network": (
        "\n    s = socket.create_connection(('127.0.0.1', PORT))\n    return s.recv(1)",
        "did not answer within 2 s",
    ),
}
"""What each does, and what is told of it: None where it harms nothing, "" where it may."""


@pytest.fixture
def port() -> Iterator[int]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def put(tmp_path: Path, port: int) -> Callable[[str], PluginHost]:
    """A host with one plugin, a file in a folder, that does this; nothing else is looked at."""

    def write(body: str, top: str = "") -> PluginHost:
        code = TEMPLATE.replace("{top}", top).replace("{body}", body).replace("PORT", str(port))
        (tmp_path / "bad.py").write_text(code)
        return PluginHost.load(settings_in(tmp_path))

    return write


def settings_in(folder: Path) -> Settings:
    signals = (
        SignalSettings(name="good", plugin="concise"),
        SignalSettings(name="s", plugin="bad"),
    )
    return Settings(
        home=folder,
        plugin_folder=folder,
        plugin_limits=LIMITS,
        visitors="employee",
        signals=signals,
    )


def answers(count: int) -> list[SignalInput]:
    return [SignalInput(Prompt("q", "How long?", ()), "Yes.", None)] * count


def processes() -> set[int]:
    """Our interpreters; a database or a browser of other tests starts helpers when it likes."""
    return {
        child.pid
        for child in psutil.Process().children(recursive=True)
        if child.name().startswith("python")
    }


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_signal_is_named_and_leaves_nothing_behind(
    put: Callable[[str], PluginHost], kind: str
) -> None:
    body, told = BAD[kind]
    before, folder, environment = processes(), Path.cwd(), dict(os.environ)
    host = put(body)
    [signal] = host.reward_signals([SignalSettings(name="s", plugin="bad")])
    if told is None:
        assert signal.read_batch(answers(2)) == [0.5, 0.5]
        assert signal.read_batch(answers(1)) == [0.5]
    elif told:
        for _ in range(2):
            with pytest.raises(PluginFailure) as caught:
                signal.read_batch(answers(1))
            assert str(caught.value).startswith("plugin bad, read(answer) of signals.s: ")
            assert told in str(caught.value)
            assert storable(str(caught.value))
    else:
        with pytest.raises(PluginFailure, match="plugin bad, read"):
            for _ in range(2):
                signal.read_batch(answers(1))
    signal.close()
    assert processes() <= before
    assert (Path.cwd(), dict(os.environ)) == (folder, environment)
    assert json.loads("[1]") == [1]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_source_is_named_after_what_it_brought(
    put: Callable[[str], PluginHost], kind: str
) -> None:
    body, told = BAD[kind]
    before = processes()
    source = put(body).data_source(SourceSettings(name="wiki", plugin="bad"))
    items = source.items({})
    assert next(items) == Document("1", "A", "a")
    if not told:
        assert list(items) == [Complete()]
    else:
        with pytest.raises(
            PluginFailure, match=r"plugin bad, items\(cursor\) of sources.wiki: "
        ) as e:
            list(items)
        assert str(told) in str(e.value)
        assert not isinstance(e.value, SourceBusyError)
    assert processes() <= before


@pytest.mark.parametrize(
    ("top", "told"),
    [
        ("time.sleep(600)", "did not answer within 5 s; its process was ended"),
        ("os._exit(9)", "its process ended with exit code 9"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
    ],
)
def test_a_plugin_whose_import_fails_is_listed_with_its_error(
    put: Callable[..., PluginHost], top: str, told: str
) -> None:
    host = put("return 0.5", top)
    infos = {info.name: info for info in host.plugins()}
    assert told in str(infos["bad"].error)
    assert infos["concise"].error is None
    with pytest.raises(PluginFailure, match=r"plugin bad of signals\.s cannot be used: "):
        host.reward_signals([SignalSettings(name="s", plugin="bad")])


def test_a_run_goes_on_with_a_signal_that_fails_and_tells_of_it(
    put: Callable[[str], PluginHost], tmp_path: Path
) -> None:
    put("raise ValueError('boom')")
    write_signals(tmp_path, settings_in(tmp_path))
    given = RunSignals(tmp_path)
    good, bad = given.signals
    assert [read_signal(bad, answers(2)) for _ in range(4)] == [[None, None]] * 4
    assert good.read_batch(answers(2)) == [1.0, 1.0]
    given.close()
    calls = [(call.plugin, call.error, call.its_fault) for call in take_calls(tmp_path)]
    # It is left alone after two failures in a row.
    told = "answer 1 of the batch: ValueError: boom"
    assert [call for call in calls if call[1]] == [("bad", told, True)] * 2
    assert ("concise", None, False) in calls
    assert take_calls(tmp_path) == []


def test_a_signals_cap_holds_in_a_run(tmp_path: Path) -> None:
    cap = SignalSettings(name="short", plugin="concise", weight=0.5, cap=0.1)
    write_signals(tmp_path, Settings(home=tmp_path, signals=(cap,)))
    given = RunSignals(tmp_path)
    assert given.signals[0].read_batch(answers(1)) == [pytest.approx(0.2)]
    given.close()


@pytest.mark.parametrize("top", ["raise OSError('no licence')", "time.sleep(600)"])
def test_a_run_goes_on_without_a_signal_that_cannot_be_made(
    put: Callable[..., PluginHost], tmp_path: Path, top: str
) -> None:
    put("return 0.5", top)
    write_signals(tmp_path, settings_in(tmp_path))
    given = RunSignals(tmp_path)
    good, bad = given.signals
    assert bad.read_batch(answers(1)) == [None]
    assert good.read_batch(answers(1)) == [1.0]
    given.close()
    assert any(call.plugin == "bad" and call.error for call in take_calls(tmp_path))


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    row = {"name": "short", "plugin": "concise", "weight": 0.5, "options": {}}
    (tmp_path / run_signals.SIGNALS_FILE).write_text(json.dumps([row]))
    given = RunSignals(tmp_path)
    assert [signal.read_batch(answers(1)) for signal in given.signals] == [[1.0]]
    given.close()


def test_nothing_is_read_beyond_a_checkpoint_before_it_is_kept(
    put: Callable[[str], PluginHost], tmp_path: Path
) -> None:
    body = (
        "\n    for n in range(3):"
        "\n        open(FILE, 'a').write('read ')"
        "\n        yield {'kind': 'checkpoint', 'cursor': {'page': n}}"
        "\n    yield {'kind': 'complete'}"
    )
    file = tmp_path / "read.txt"
    host = put(body.replace("FILE", repr(str(file))))
    code = (tmp_path / "bad.py").read_text().replace("yield given", "yield from given")
    (tmp_path / "bad.py").write_text(code.replace('        yield dict(kind="complete")\n', ""))
    items = host.data_source(SourceSettings(name="wiki", plugin="bad")).items({})
    assert next(items) == Document("1", "A", "a")
    next(items)
    time.sleep(0.2)
    assert file.read_text() == "read "
    assert [type(item).__name__ for item in items] == ["Checkpoint", "Checkpoint", "Complete"]


def test_a_plugins_process_ends_with_ours_however_that_ends(
    put: Callable[[str], PluginHost], tmp_path: Path
) -> None:
    put("time.sleep(600)")
    code = (
        "import sys; from pathlib import Path; "
        "from tests.service.test_bad_plugins import *; "
        "host = PluginHost.load(settings_in(Path(sys.argv[1]))); "
        "[signal] = host.reward_signals([SignalSettings(name='s', plugin='bad')]); "
        "print('made', flush=True); signal.read_batch(answers(1))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as ours:
        assert ours.stdout is not None
        assert ours.stdout.readline() == b"made\n"
        theirs = psutil.Process(ours.pid).children(recursive=True)
        assert theirs
        ours.kill()
    gone, alive = psutil.wait_procs(theirs, timeout=10)
    assert (len(gone), alive) == (len(theirs), [])
