"""The host loads what it can, names who is at fault, and is harmed by none."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, SecretStr

from plugins.contract import (
    Answer,
    Checkpoint,
    Complete,
    Document,
    GoldPair,
    Partial,
    Rejected,
    RetryLater,
    SecretError,
    SourceError,
)
from plugins.hookspecs import hookimpl
from rlhf_engine import Prompt, PromptPassage, SignalInput
from service.errors import PluginFailure, SettingsError, SourceBusyError, SourceSecretError
from service.plugin_host import PluginHost
from service.plugin_hosted import HostedSignal
from service.secrets_of_options import MASK
from service.settings import SignalSettings, SourceSettings

BUILT_IN = {"concise", "faq_csv", "grounded", "markdown_folder", "website"}


class Made:
    """What every plugin class has."""

    name = "wiki"

    def __init__(self, settings: Any) -> None:
        pass


def source_plugin(items: Callable[[Any], Any], **parts: Any) -> object:
    """A plugin with a data source "wiki" that answers `items(cursor)`."""
    cls = type("Wiki", (Made,), {"items": staticmethod(items), **parts})
    return SimpleNamespace(heed_data_sources=hookimpl(lambda: [cls], specname="heed_data_sources"))


def signal_plugin(read: Callable[[Answer], Any], **parts: Any) -> object:
    """A plugin with a reward signal "judge" that answers `read(answer)`."""
    cls = type("Judge", (Made,), {"name": "judge", "read": staticmethod(read), **parts})
    return SimpleNamespace(
        heed_reward_signals=hookimpl(lambda: [cls], specname="heed_reward_signals")
    )


def hosted_signal(read: Callable[[Answer], Any]) -> HostedSignal:
    host = PluginHost()
    host.register("judge", signal_plugin(read))
    return host.reward_signals((SignalSettings(name="fair", plugin="judge", weight=0.5),))[0]


def sync(items: Callable[[Any], Any], cursor: dict[str, Any] | None = None) -> list[Any]:
    host = PluginHost()
    host.register("wiki", source_plugin(items))
    source = host.data_source(SourceSettings(name="handbook", plugin="wiki"))
    return list(source.items(cursor or {}))


def given(answer: str = "Yes.") -> SignalInput:
    passages = (PromptPassage("p1", "Leave", "Thirty days."),)
    return SignalInput(Prompt("q1", "How long?", passages), answer, gold="Thirty.")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a distribution with one plugin where Python finds it, as pip would."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(name: str, code: str, version: str = "1.2") -> None:
        module = f"heed_test_{name}"
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}")
        (info / "entry_points.txt").write_text(f"[heed]\n{name} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return put


def test_the_built_in_plugins_are_found_by_their_entry_points() -> None:
    infos = {info.name: info for info in PluginHost.load().plugins()}
    assert set(infos) >= BUILT_IN
    assert infos["faq_csv"].hooks == ("heed_data_sources",)
    [concise] = infos["concise"].classes
    assert (concise.hook, concise.name) == ("heed_reward_signals", "concise")
    assert concise.help == "Judges an answer by its length alone."
    assert all(info.error is None and info.version for info in infos.values())


def test_finding_the_plugins_imports_none_of_them() -> None:
    code = (
        "import sys; from service.plugin_host import PluginHost; host = PluginHost.load(); "
        "[host.plugins()]; "
        "sys.exit(sum(m in sys.modules for m in ('plugins.faq_csv', 'plugins.grounded')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_built_in_source_and_signal_work_through_the_host(tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text("question,answer\nHow long?,Thirty days.\n")
    host = PluginHost.load()
    settings = SourceSettings(
        name="faq", plugin="faq_csv", options={"path": str(tmp_path / "faq.csv")}
    )
    assert [type(item) for item in host.data_source(settings).items({})] == [GoldPair, Complete]
    grounded, concise = host.reward_signals(
        (
            SignalSettings(name="grounded", plugin="grounded", weight=0.2),
            SignalSettings(name="short", plugin="concise", options={"words": 2}),
        )
    )
    assert (grounded.name, grounded.weight) == ("grounded", 0.2)
    batch = [given("Thirty days."), given(""), given("Ask your manager about this.")]
    assert grounded.read_batch(batch) == [1.0, None, -1.0]
    assert concise.read_batch(batch) == [1.0, None, pytest.approx(-0.5)]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named"),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        ("", "implements no hook"),
        (
            "from plugins.hookspecs import hookimpl\n@hookimpl\ndef heed_data_sauce(): ...",
            "unknown hook 'heed_data_sauce'",
        ),
        (
            "from plugins.hookspecs import hookimpl\n@hookimpl\ndef heed_data_sources(secret): ...",
            "'secret'",
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_listed_and_the_others_go_on(
    install: Callable[..., None], code: str, told: str
) -> None:
    install("a_broken", code)
    install(
        "a_working",
        "from plugins.hookspecs import hookimpl\n@hookimpl\ndef heed_data_sources(): return []",
        version="3.4",
    )
    host = PluginHost.load()
    infos = {info.name: info for info in host.plugins()}
    assert set(infos) >= {"a_broken", "a_working", *BUILT_IN}
    assert told in str(infos["a_broken"].error)
    assert infos["a_broken"].version == "1.2"
    assert infos["a_working"].error is None
    assert infos["a_working"].version == "3.4"
    with pytest.raises(PluginFailure, match=r"plugin a_broken of sources.x cannot be used"):
        host.data_source(SourceSettings(name="x", plugin="a_broken"))
    assert host.reward_signals((SignalSettings(name="c", plugin="concise"),))


def test_two_plugins_of_one_name_are_told_apart(install: Callable[..., None]) -> None:
    install(
        "concise",
        "from plugins.hookspecs import hookimpl\n@hookimpl\ndef heed_reward_signals(): return []",
    )
    errors = [info.error for info in PluginHost.load().plugins() if info.name == "concise"]
    assert errors.count(None) == 1
    assert [error for error in errors if error and "another plugin has this name" in error]


def test_a_plugin_that_fails_to_register_leaves_nothing_behind() -> None:
    host = PluginHost()
    with pytest.raises(PluginFailure, match="plugin odd cannot be used: implements no hook"):
        host.register("odd", SimpleNamespace())
    assert host.plugins() == []
    host.register("odd", signal_plugin(lambda _: 0.0))
    assert [info.name for info in host.plugins()] == ["odd"]


def test_an_unknown_plugin_and_one_of_the_other_kind_are_named_with_those_that_fit() -> None:
    host = PluginHost.load()
    with pytest.raises(SettingsError) as caught:
        host.data_source(SourceSettings(name="faq", plugin="faq_cvs"))
    told, able = str(caught.value).split(" can be named here: ")
    assert told == (
        "setting sources.faq.plugin: 'faq_cvs' is no installed plugin with heed_data_sources; "
        "plugins that"
    )
    assert {"faq_csv", "markdown_folder"} <= set(able.split(", "))
    with pytest.raises(SettingsError, match=r"can be named here: .*concise.*grounded"):
        host.reward_signals((SignalSettings(name="faq", plugin="faq_csv"),))


def test_a_wrong_option_is_a_settings_error_that_names_source_and_plugin() -> None:
    settings = SourceSettings(name="faq", plugin="faq_csv", options={"file": "a.csv"})
    with pytest.raises(SettingsError, match=r"setting sources.faq \(plugin faq_csv\): option 'fil"):
        PluginHost.load().data_source(settings)


def test_a_class_is_named_by_its_own_name_whatever_its_module_is_called(
    install: Callable[..., None],
) -> None:
    code = (
        "from plugins.hookspecs import hookimpl\n"
        "class One:\n"
        "    name = 'first'\n"
        "    def __init__(self, settings): ...\n"
        "    def read(self, answer): return 0.25\n"
        "class Two(One):\n"
        "    name = 'second'\n"
        "    def read(self, answer): return 0.75\n"
        "@hookimpl\n"
        "def heed_reward_signals(): return [One, Two]\n"
    )
    install("both", code)
    signal = PluginHost.load().reward_signals((SignalSettings(name="x", plugin="second"),))[0]
    assert signal.read_batch([given(), given()]) == [0.75, 0.75]


def test_it_cannot_change_the_settings() -> None:
    @dataclass
    class Settings:
        words: list[str]

    def spoil(self: Any, settings: Settings) -> None:
        settings.words.append("mine")

    host = PluginHost()
    host.register("wiki", source_plugin(lambda _: [], Settings=Settings, __init__=spoil))
    settings = SourceSettings(name="s", plugin="wiki", options={"words": []})
    host.data_source(settings)
    assert settings.options == {"words": []}


@pytest.mark.parametrize(
    ("answered", "told"),
    [
        (None, "heed_data_sources(): TypeError: 'NoneType' object is not iterable"),
        ([3], "heed_data_sources() lists a int; it lists classes"),
        ([type("A", (), {})], "A.name is None; give small letters"),
        ([type("A", (), {"name": "A b"})], "A.name is 'A b'"),
        ([type("A", (), {"name": "a"})], "A has no method items; see plugins/contract.py"),
        ([type("A", (), {"name": "a", "items": 3})], "A has no method items"),
    ],
)
def test_a_hook_that_answers_no_classes_is_named(answered: Any, told: str) -> None:
    hook = hookimpl(lambda: answered, specname="heed_data_sources")
    with pytest.raises(PluginFailure) as caught:
        PluginHost().register("wiki", SimpleNamespace(heed_data_sources=hook))
    assert str(caught.value).startswith("plugin wiki cannot be used: heed_data_sources()")
    assert told in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit("boom"), RecursionError("boom")])
def test_a_class_that_cannot_be_made_is_named_with_its_setting(error: BaseException) -> None:
    def fail(self: Any, settings: None) -> None:
        raise error

    host = PluginHost()
    host.register("judge", signal_plugin(lambda _: 0.0, __init__=fail))
    with pytest.raises(PluginFailure) as caught:
        host.reward_signals((SignalSettings(name="fair", plugin="judge"),))
    assert str(caught.value) == (
        f"plugin judge, heed_reward_signals, options of signals.fair: {type(error).__name__}: boom"
    )


def test_a_secret_is_taken_out_of_what_a_plugin_says() -> None:
    class Settings(BaseModel):
        key: SecretStr

    def items(cursor: Any) -> Iterator[Any]:
        yield Rejected("a", "hunter2 may not read it")
        raise SecretError("401 for key hunter2; make a new one")

    host = PluginHost()
    host.register("wiki", source_plugin(items, Settings=Settings))
    settings = SourceSettings(name="w", plugin="wiki", options={"key": "hunter2"})
    read = host.data_source(settings).items({})
    assert next(read) == Rejected("a", f"{MASK} may not read it")
    with pytest.raises(SourceSecretError, match=f"401 for key {MASK}; make a new one"):
        next(read)


def test_a_source_may_ask_to_be_read_later() -> None:
    def items(cursor: Any) -> Iterator[Any]:
        yield Checkpoint({"page": 1})
        raise RetryLater(7, "429 from the wiki")

    host = PluginHost()
    host.register("wiki", source_plugin(items))
    read = host.data_source(SourceSettings(name="w", plugin="wiki")).items({})
    assert next(read) == Checkpoint({"page": 1})
    with pytest.raises(SourceBusyError, match="429 from the wiki") as caught:
        next(read)
    assert caught.value.retry_after_s == 7


def test_plain_dicts_are_items_too() -> None:
    items = [
        {"kind": "document", "id": "a", "title": "A", "text": "t", "updated": "2026-01-02"},
        {"kind": "gold_pair", "id": "b", "question": "Q?", "answer": "A."},
        {"kind": "document", "id": "c", "title": "C"},
        {"kind": "question", "id": "d", "query": "Q?"},
        {"kind": "document", "id": "e", "title": "E", "text": b"bytes"},
        {"kind": "complete"},
    ]
    assert sync(lambda _: items) == [
        Document("a", "A", "t", updated=datetime(2026, 1, 2)),
        GoldPair("b", "Q?", "A."),
        Rejected("c", "document has no text"),
        Rejected("d", "question has a field 'query'; known are id, question"),
        Rejected("e", "text is a bytes; it must be text"),
        Complete(),
    ]


def test_items_pass_through_and_the_cursor_is_handed_over() -> None:
    def items(cursor: Any) -> Iterator[Any]:
        yield Document("a", "A", "text")
        yield Rejected("b", "why")
        yield Partial({"since": cursor["since"] + 1})

    assert sync(items, {"since": 1})[-1] == Partial({"since": 2})


def _raise_midway(cursor: Any) -> Iterator[Any]:
    yield Document("a", "A", "text")
    raise KeyError("page")


def _refuse(cursor: Any) -> Iterator[Any]:
    raise SourceError("wiki.example refused the connection; check the token")


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (_raise_midway, "KeyError: 'page'"),
        (_refuse, "wiki.example refused the connection; check the token"),
        (lambda _: sys.exit("bye"), "SystemExit: bye"),
        (lambda _: None, "TypeError: 'NoneType' object is not iterable"),
        (lambda _: ["text", Complete()], "yielded a str, which is no contract item"),
        (lambda _: [Document("a", "A", "t")], "ended without Complete or Partial"),
        (lambda _: [], "ended without Complete or Partial"),
        (lambda _: [Complete(), Document("a", "A", "t")], "yielded a Document after Complete"),
        (lambda _: [Complete(), Complete()], "yielded a Complete after Complete or Partial"),
    ],
)
def test_a_source_that_fails_or_breaks_the_contract_is_named(
    items: Callable[[Any], Any], told: str
) -> None:
    with pytest.raises(PluginFailure) as caught:
        sync(items)
    assert str(caught.value).startswith("plugin wiki, items(cursor) of sources.handbook: ")
    assert told in str(caught.value)


def test_a_signal_is_given_question_answer_passages_and_gold() -> None:
    seen: list[Answer] = []
    hosted_signal(seen.append).read_batch([given("Yes.")])
    answer = seen[0]
    assert (answer.question, answer.text, answer.gold) == ("How long?", "Yes.", "Thirty.")
    assert [(p.title, p.text) for p in answer.passages] == [("Leave", "Thirty days.")]


@pytest.mark.parametrize("reading", [-1, 0, 1.0, None, np.float32(0.5), np.int64(1)])
def test_numbers_in_range_and_none_are_readings(reading: Any) -> None:
    readings = hosted_signal(lambda _: reading).read_batch([given(), given()])
    assert readings == [reading, reading]
    assert all(value is None or type(value) is float for value in readings)


@pytest.mark.parametrize(
    ("reading", "told"),
    [
        (math.nan, "answered nan; a reading is in [-1, 1]"),
        (math.inf, "answered inf"),
        (1.01, "answered 1.01"),
        (-2, "answered -2.0"),
        ("0.5", "answered a str; a number or None is needed"),
        (True, "answered a bool"),
        ([0.5], "answered a list"),
    ],
)
def test_a_reading_out_of_contract_names_plugin_signal_and_answer(reading: Any, told: str) -> None:
    readings = iter([0.0, reading])
    with pytest.raises(PluginFailure) as caught:
        hosted_signal(lambda _: next(readings)).read_batch([given(), given()])
    assert str(caught.value).startswith(
        "plugin judge, read(answer) of signals.fair: answer 2 of the batch: "
    )
    assert told in str(caught.value)


def test_a_signal_that_raises_is_named_and_the_text_is_kept_short() -> None:
    def read(answer: Answer) -> float:
        raise ValueError("x" * 10_000)

    with pytest.raises(PluginFailure, match="ValueError: xxx") as caught:
        hosted_signal(read).read_batch([given()])
    assert len(str(caught.value)) < 700


def test_an_empty_batch_has_no_readings() -> None:
    assert hosted_signal(lambda _: 1.0).read_batch([]) == []
