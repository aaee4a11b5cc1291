"""The host loads what it can, names who is at fault, and is harmed by none."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plugins.contract import (
    Answer,
    Complete,
    Document,
    GoldPair,
    Options,
    Partial,
    Rejected,
    SourceError,
)
from plugins.hookspecs import hookimpl
from rlhf_engine import Prompt, PromptPassage, SignalInput
from service.errors import PluginFailure, SettingsError
from service.plugin_host import HostedSignal, PluginHost
from service.settings import SignalSettings, SourceSettings

BUILT_IN = ["concise", "faq_csv", "grounded", "markdown_folder"]


def source_plugin(items: Callable[[Any], Any]) -> object:
    """A plugin whose data source answers `items(cursor)`."""

    class Plugin:
        @hookimpl
        def heed_data_source(self, options: Options) -> Any:
            return SimpleNamespace(items=items)

    return Plugin()


def signal_plugin(read: Callable[[Answer], Any]) -> object:
    """A plugin whose reward signal answers `read(answer)`."""

    class Plugin:
        @hookimpl
        def heed_reward_signal(self) -> Any:
            return SimpleNamespace(read=read)

    return Plugin()


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
    assert sorted(infos) == BUILT_IN
    assert infos["faq_csv"].hooks == ("heed_data_source", "heed_options")
    assert infos["concise"].hooks == ("heed_options", "heed_reward_signal")
    assert all(info.error is None and info.version for info in infos.values())


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
            "from plugins.hookspecs import hookimpl\n@hookimpl\ndef heed_data_sauce(options): ...",
            "unknown hook 'heed_data_sauce'",
        ),
        (
            "from plugins.hookspecs import hookimpl\n"
            "@hookimpl\ndef heed_data_source(options, secret): ...",
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
        "from plugins.hookspecs import hookimpl\n@hookimpl\ndef heed_data_source(options): ...",
        version="3.4",
    )
    host = PluginHost.load()
    infos = {info.name: info for info in host.plugins()}
    assert sorted(infos) == sorted(["a_broken", "a_working", *BUILT_IN])
    assert told in str(infos["a_broken"].error)
    assert infos["a_broken"].version == "1.2"
    assert infos["a_working"].error is None
    assert infos["a_working"].version == "3.4"
    with pytest.raises(SettingsError, match=r"setting sources.x.plugin: 'a_broken' cannot be used"):
        host.data_source(SourceSettings(name="x", plugin="a_broken"))
    assert host.reward_signals((SignalSettings(name="c", plugin="concise"),))


def test_two_plugins_of_one_name_are_told_apart(install: Callable[..., None]) -> None:
    install(
        "concise",
        "from plugins.hookspecs import hookimpl\n@hookimpl\ndef heed_reward_signal(options): ...",
    )
    errors = [info.error for info in PluginHost.load().plugins() if info.name == "concise"]
    assert errors.count(None) == 1
    assert [error for error in errors if error and "another plugin has this name" in error]


def test_a_plugin_that_fails_to_register_leaves_nothing_behind() -> None:
    host = PluginHost()
    with pytest.raises(PluginFailure, match="plugin odd implements no hook"):
        host.register("odd", SimpleNamespace())
    assert host.plugins() == []
    host.register("odd", signal_plugin(lambda _: 0.0))
    assert [info.name for info in host.plugins()] == ["odd"]


def test_an_unknown_plugin_and_one_of_the_other_kind_are_named_with_those_that_fit() -> None:
    host = PluginHost.load()
    with pytest.raises(SettingsError) as caught:
        host.data_source(SourceSettings(name="faq", plugin="faq_cvs"))
    assert str(caught.value) == (
        "setting sources.faq.plugin: 'faq_cvs' is no installed plugin with heed_data_source; "
        "plugins that can be named here: faq_csv, markdown_folder"
    )
    with pytest.raises(SettingsError, match="can be named here: concise, grounded"):
        host.reward_signals((SignalSettings(name="faq", plugin="faq_csv"),))


def test_a_wrong_option_is_a_settings_error_that_names_source_and_plugin() -> None:
    settings = SourceSettings(name="faq", plugin="faq_csv", options={"file": "a.csv"})
    with pytest.raises(SettingsError, match=r"setting sources.faq \(plugin faq_csv\): option 'fil"):
        PluginHost.load().data_source(settings)


def test_only_the_named_plugin_is_called_and_it_cannot_change_the_settings() -> None:
    called: list[str] = []

    def plugin(name: str) -> object:
        class Plugin:
            @hookimpl
            def heed_data_source(self, options: Options) -> Any:
                called.append(name)
                options["list"].append("mine")
                return SimpleNamespace(items=lambda _: [Complete()])

        return Plugin()

    host = PluginHost()
    host.register("one", plugin("one"))
    host.register("two", plugin("two"))
    settings = SourceSettings(name="s", plugin="one", options={"list": []})
    host.data_source(settings)
    assert called == ["one"]
    assert settings.options == {"list": []}


@pytest.mark.parametrize("made", [None, 3, SimpleNamespace(items=3)])
def test_a_hook_that_answers_no_source_is_named(made: Any) -> None:
    class Plugin:
        @hookimpl
        def heed_data_source(self) -> Any:
            return made

    host = PluginHost()
    host.register("wiki", Plugin())
    with pytest.raises(PluginFailure, match=r"plugin wiki, heed_data_source\(options\) answered a"):
        host.data_source(SourceSettings(name="handbook", plugin="wiki"))


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit("boom"), RecursionError("boom")])
def test_a_hook_that_raises_is_named_with_its_argument(error: BaseException) -> None:
    class Plugin:
        @hookimpl
        def heed_reward_signal(self) -> Any:
            raise error

    host = PluginHost()
    host.register("judge", Plugin())
    with pytest.raises(PluginFailure) as caught:
        host.reward_signals((SignalSettings(name="fair", plugin="judge"),))
    assert str(caught.value) == (
        "plugin judge, heed_reward_signal, argument options of signals.fair: "
        f"{type(error).__name__}: boom"
    )
    assert caught.value.__cause__ is error


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
    assert str(caught.value).startswith("plugin wiki, items(cursor) of source handbook: ")
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
        "plugin judge, read(answer) of signal fair, answer 2 of the batch: "
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
