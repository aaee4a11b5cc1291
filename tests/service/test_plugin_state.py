"""How plugins do is kept; one that keeps failing is switched off, and operators are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from service import audit, notices
from service.database import session
from service.errors import PluginFailure
from service.plugin_hosted import Called
from service.plugin_limits import PluginLimits
from service.plugin_state import PluginBook, note_all, open_host, reasons_off, states
from service.plugin_tables import PluginState
from service.settings import Settings, SignalSettings, SourceSettings
from service.source_desk import SourceDesk
from service.tables import Person
from tests.service.web_client import Caller, web_app

PLUGIN = """
from pathlib import Path
import pluggy

hookimpl = pluggy.HookimplMarker("heed")


class Shaky:
    \"\"\"Reads 1, or fails where it is told to.\"\"\"

    name = "shaky"

    def __init__(self, settings):
        pass

    def read(self, answer):
        if answer.text == "fail":
            raise ValueError("boom")
        return 1.0


@hookimpl
def heed_reward_signals():
    return [Shaky]
"""


def called(error: str | None = None, its_fault: bool = True, **more: Any) -> Called:
    values = {"plugin": "wiki", "method": "read", "seconds": 1.0, "peak_mb": 50}
    failed = error is not None and its_fault
    return Called(**{**values, **more}, error=error, its_fault=failed)


def noted(engine: Engine, *calls: Called, failures: int = 3) -> PluginState:
    with session(engine) as opened:
        note_all(opened, calls, failures)
        return states(opened)["wiki"]


def test_calls_are_counted_with_the_slowest_and_the_most_memory(engine: Engine) -> None:
    state = noted(
        engine,
        called(seconds=0.5),
        called(method="items", seconds=2.5, peak_mb=90),
        called("boom", seconds=1.0, peak_mb=10),
    )
    assert (state.calls, state.failures, state.failures_in_a_row) == (3, 1, 1)
    assert (state.seconds, state.slowest_s, state.slowest_call) == (4.0, 2.5, "items")
    assert (state.peak_mb, state.last_error, state.is_on) == (90, "boom", True)
    assert noted(engine, called()).failures_in_a_row == 0


def test_failures_in_a_row_switch_it_off_once_and_every_operator_is_told(engine: Engine) -> None:
    people = {
        role: Person(name=role, role=role) for role in ("employee", "reviewer", "operator", "admin")
    }
    with session(engine) as opened:
        opened.add_all(people.values())
    assert noted(engine, called("a"), called("b"), called(), called("c"), called("d")).is_on
    state = noted(engine, called("e"), called("f"))
    assert (state.is_on, state.off_reason) == (False, "it failed 3 times in a row")
    with session(engine) as opened:
        told = {role: notices.newest(opened, who.id, 9) for role, who in people.items()}
        assert {role: len(some) for role, some in told.items()} == {
            "employee": 0,
            "reviewer": 0,
            "operator": 1,
            "admin": 1,
        }
        [notice] = told["operator"]
        assert "plugin wiki was switched off" in notice.text
        assert notice.link == "/plugins"
        assert reasons_off(opened) == {"wiki": "it failed 3 times in a row"}
        assert [e.entry.action for e in audit.entries(opened, action="plugin")] == ["plugin.failed"]


def test_what_only_the_read_place_is_to_blame_for_switches_nothing_off(engine: Engine) -> None:
    state = noted(engine, *[called("the wiki is down", its_fault=False)] * 9)
    assert (state.is_on, state.failures, state.last_error) == (True, 0, "the wiki is down")


def test_calls_are_noted_while_a_transaction_of_the_caller_goes_on(engine: Engine) -> None:
    book = PluginBook(engine, 3)
    with session(engine) as opened:
        opened.add(Person(name="Ada"))
        opened.flush()
        book.record(called())
        book.record(called("boom"))
    book.flush()
    with session(engine) as opened:
        assert (states(opened)["wiki"].calls, book.why_off("wiki")) == (2, None)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "shaky.py").write_text(PLUGIN)
    return {
        "visitors": "operator",
        "signals": (SignalSettings(name="mine", plugin="shaky"),),
        "sources": (SourceSettings(name="faq", plugin="faq_csv", options={"path": "faq.csv"}),),
        "plugins_loaded": ("shaky", "faq_csv", "concise"),
        "plugin_limits": PluginLimits(failures=2),
    }


@pytest.fixture
def operator(engine: Engine, tmp_path: Path, settings: dict[str, Any]) -> Iterator[Caller]:
    with web_app(engine, tmp_path, **settings) as app:
        yield Caller(app)


def entry(caller: Caller, name: str) -> dict[str, Any]:
    [found] = [one for one in caller.get("/api/plugins").json()["plugins"] if one["name"] == name]
    return dict(found)


def test_the_page_shows_what_each_brings_and_what_uses_it(operator: Caller, tmp_path: Path) -> None:
    listed = operator.get("/api/plugins").json()
    assert [plugin["name"] for plugin in listed["plugins"]] == ["concise", "faq_csv", "shaky"]
    assert (listed["folder"], listed["most_failures"]) == (str(tmp_path / "plugins"), 2)
    mine = entry(operator, "shaky")
    assert mine["brings"] == [
        {"kind": "signal", "name": "shaky", "help": "Reads 1, or fails where it is told to."}
    ]
    assert (mine["origin"], mine["used_by"], mine["calls"]) == ("file", ["signal mine"], 0)
    assert mine["mean_s"] is None
    faq = entry(operator, "faq_csv")
    assert (faq["origin"], faq["used_by"], faq["on"]) == ("built-in", ["source faq"], True)


def test_a_plugin_that_keeps_failing_is_off_until_somebody_switches_it_on(
    engine: Engine, tmp_path: Path, settings: dict[str, Any]
) -> None:
    given = Settings(home=tmp_path, **settings)
    host = open_host(given, engine)
    with web_app(engine, tmp_path, desk=SourceDesk(lambda: host), **settings) as app:
        caller = Caller(app)
        bad = {"question": "How?", "answer": "fail"}
        for _ in range(2):
            read = caller.post("/api/signals/mine/read", bad).json()
            assert "plugin shaky, read(answer) of signals.mine: answer 1" in read["error"]
        host.flush()
        state = entry(caller, "shaky")
        assert (state["on"], state["off_reason"]) == (False, "it failed 2 times in a row")
        assert state["last_error"] == "answer 1 of the batch: ValueError: boom"
        assert state["peak_mb"] > 0
        fine = bad | {"answer": "Yes."}
        assert "switched off" in caller.post("/api/signals/mine/read", fine).json()["error"]
        with pytest.raises(PluginFailure, match="switched off: it failed 2 times in a row"):
            host.reward_signals(given.signals)
        assert caller.post("/api/plugins/shaky/switch", {"on": True}).json()["on"]
        assert caller.post("/api/signals/mine/read", fine).json()["reading"] == 1.0
        off = caller.post("/api/plugins/shaky/switch", {"on": False}).json()
        assert (off["on"], off["off_reason"]) == (False, f"{caller.me['name']} switched it off")
        assert caller.post("/api/plugins/none/switch", {"on": False}).status_code == 404
    with session(engine) as opened:
        actions = [e.entry.action for e in audit.entries(opened, action="plugin")]
    assert actions == ["plugin.off", "plugin.on", "plugin.failed"]


def test_only_operators_see_plugins_and_switch_them(engine: Engine, tmp_path: Path) -> None:
    with web_app(engine, tmp_path, visitors="reviewer") as app:
        caller = Caller(app)
        assert caller.get("/api/plugins").status_code == 403
        assert caller.post("/api/plugins/concise/switch", {"on": False}).status_code == 403
    with session(engine) as opened:
        assert opened.exec(select(PluginState)).all() == []
