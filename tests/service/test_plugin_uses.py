"""Observers are told, redactors leave nothing behind, rerankers choose; none breaks anything."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from plugins.contract import Complete, GoldPair
from rlhf_engine.records import PromptPassage
from service import observing, policies
from service.database import session
from service.errors import PluginFailure
from service.evidence import freeze_snapshot
from service.export import export_feedback
from service.passage_finder import PassageFinder
from service.plugin_limits import PluginLimits
from service.redaction import open_redaction
from service.reranking import Reranking
from service.settings import PluginUse, Settings
from service.tables import GateReport, Promotion, TrainingRun, now
from tests.journeys.server import eventually
from tests.service.sources import Shelf, store
from tests.service.voted import make_versions
from tests.service.web_client import Caller, web_app

PLUGIN = """
import json, os, time
import pluggy

hookimpl = pluggy.HookimplMarker("heed")
HERE = os.path.dirname(__file__)


class Log:
    name = "log"

    def __init__(self, settings): ...

    def promoted(self, event):
        self.write(["promoted", event.version, event.previous, event.by, event.reason])

    def run_finished(self, event):
        self.write(["finished", event.run, event.outcome, dict(event.figures)])

    def write(self, told):
        with open(os.path.join(HERE, "told.jsonl"), "a") as file:
            file.write(json.dumps(told) + chr(10))


class Deaf:
    name = "deaf"

    def __init__(self, settings): ...

    def promoted(self, event):
        os._exit(3)

    run_finished = promoted


class Names:
    name = "names"

    def __init__(self, settings): ...

    def redact(self, text):
        if "explode" in text:
            raise ValueError("boom")
        return text.replace("Ada", "NAME")


class Longest:
    name = "longest"

    def __init__(self, settings): ...

    def rerank(self, question, passages):
        if question == "Will it hang?":
            time.sleep(600)
        return [len(one.text) for one in passages]


@hookimpl
def heed_observers():
    return [Log, Deaf]


@hookimpl
def heed_redactors():
    return [Names]


@hookimpl
def heed_rerankers():
    return [Longest]
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """All three kinds from one file in the folder of plugins; one of the observers is broken."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text(PLUGIN)
    return Settings(
        home=tmp_path,
        plugins_loaded=("mine",),
        plugin_limits=PluginLimits(rerank_s=1),
        observers=(PluginUse(name="deaf", plugin="deaf"), PluginUse(name="log", plugin="log")),
        redactors=(PluginUse(name="names", plugin="names"),),
        rerankers=(PluginUse(name="longest", plugin="longest"),),
    )


def told(settings: Settings) -> list[Any]:
    """What the observer wrote, once every observer was told."""
    for thread in threading.enumerate():
        if thread.name.startswith("observers-"):
            thread.join(30)
    file = settings.plugins_folder / "told.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_observers_are_told_of_a_promotion_whatever_another_does(
    engine: Engine, settings: Settings
) -> None:
    row = Promotion(version_id="v2", replaced_id="v1", by="the gate", evidence="It is better.")
    observing.tell_promoted(settings, engine, row)
    assert told(settings) == [["promoted", "v2", "v1", "the gate", "It is better."]]


def test_observers_are_told_how_a_run_ended_with_the_gates_figures(
    engine: Engine, settings: Settings
) -> None:
    run = TrainingRun(
        id="r1", state="promoted", folder="runs/r1", requested_by="a test", reason="asked"
    )
    with session(engine) as opened:
        opened.add(run)
        opened.flush()
        figures = {"win_rate": 0.75, "passed": True, "by_source": {"a": 1.0}}
        opened.add(GateReport(run_id="r1", passed=True, sentence="Better.", figures=figures))
    observing.tell_finished(settings, engine, run)
    assert told(settings) == [["finished", "r1", "promoted", {"win_rate": 0.75}]]


def run_of(engine: Engine, state: str) -> TrainingRun:
    run = TrainingRun(
        id="r1", state=state, folder="r1", requested_by="a", reason="b", candidate_id="v1"
    )
    with session(engine) as opened:
        opened.add(run)
    return run


@pytest.mark.parametrize("state", ["awaiting_approval", "refused"])
def test_observers_hear_of_a_run_that_ended_by_a_promotion(
    engine: Engine, settings: Settings, state: str
) -> None:
    make_versions(engine, 2)
    run_of(engine, state)
    with session(engine) as opened:
        asked = policies.request_promotion(opened, "v1", "Ada", "read it", run_id="r1")
    with session(engine) as opened:
        policies.move_alias(opened, asked)
    observing.tell_promoted(settings, engine, asked)
    assert sorted(told(settings)) == [
        ["finished", "r1", "promoted", {}],
        ["promoted", "v1", "v0", "Ada", "read it"],
    ]


def test_of_a_run_that_its_conductor_ends_a_promotion_tells_nothing(
    engine: Engine, settings: Settings
) -> None:
    make_versions(engine, 2)
    run = run_of(engine, "running")
    with session(engine) as opened:
        asked = policies.request_promotion(opened, "v1", "the gate", "won", run_id="r1")
    with session(engine) as opened:
        policies.move_alias(opened, asked)
    with session(engine) as opened:
        run.state, run.finished_at = "promoted", now()
        opened.add(run)
    observing.tell_promoted(settings, engine, asked)
    assert told(settings) == [["promoted", "v1", "v0", "the gate", "won"]]


@pytest.mark.parametrize(
    ("state", "act", "outcome"),
    [
        ("awaiting_approval", "reject", "refused"),
        ("awaiting_approval", "cancel", "cancelled"),
        ("queued", "cancel", "cancelled"),
    ],
)
def test_observers_hear_of_a_run_that_a_person_ends(
    engine: Engine, settings: Settings, state: str, act: str, outcome: str
) -> None:
    make_versions(engine, 2)
    run_of(engine, state)
    given = settings.model_dump(include={"plugins_loaded", "observers"})
    with web_app(engine, settings.home, visitors="operator", **given) as app:
        assert Caller(app).post(f"/api/runs/r1/{act}").json()["state"] == outcome
        assert told(settings) == [["finished", "r1", outcome, {}]]


def test_nothing_is_begun_without_observers(engine: Engine, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    promotion = Promotion(version_id="v2", by="a", evidence="b")
    observing.tell_promoted(Settings(home=tmp_path), engine, promotion)
    assert set(threading.enumerate()) == before


@pytest.fixture
def named(engine: Engine) -> Engine:
    """A gold answer and a vote that hold a name."""
    pairs = [GoldPair(str(n), f"Where does Ada {n} sit?", "Ada sits upstairs.") for n in range(8)]
    assert Shelf().sync(engine, *pairs, Complete()).error is None
    return engine


def test_a_frozen_snapshot_holds_nothing_that_was_redacted(
    named: Engine, settings: Settings, tmp_path: Path
) -> None:
    store(named, "# Seats\nAda sits in room 7.")
    redact = open_redaction(settings, named)
    with session(named) as opened:
        snapshot = freeze_snapshot(opened, tmp_path / "snapshot", 20, 2, redact=redact)
    redact.close()
    assert {item.answer for item in snapshot.demonstrations} == {"NAME sits upstairs."}
    assert all("Ada" not in item.question for item in snapshot.prompts)
    # What a document says is no question or answer.
    shown = {p.text for item in snapshot.demonstrations for p in item.prompt.passages}
    assert any("Ada sits in room 7." in text for text in shown)


def test_nothing_is_frozen_or_exported_where_a_redactor_fails(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    pairs = [GoldPair(str(n), f"How does {n} explode?", "Loudly.") for n in range(8)]
    Shelf().sync(engine, *pairs, Complete())
    redact = open_redaction(settings, engine)
    with (
        session(engine) as opened,
        pytest.raises(PluginFailure, match=r"plugin mine, redact\(text\) of redactors\.names: Val"),
    ):
        freeze_snapshot(opened, tmp_path / "snapshot", 20, 2, redact=redact)
    assert not (tmp_path / "snapshot").exists()
    with pytest.raises(PluginFailure, match="ValueError: boom"):
        export_feedback(engine, "prompt-completion", tmp_path / "out.jsonl", redact=redact)
    assert not (tmp_path / "out.jsonl").exists()
    redact.close()


def test_an_export_holds_nothing_that_was_redacted(
    named: Engine, settings: Settings, tmp_path: Path
) -> None:
    redact = open_redaction(settings, named)
    path = tmp_path / "out.jsonl"
    assert export_feedback(named, "prompt-completion", path, redact=redact) == 8
    redact.close()
    assert "Ada" not in path.read_text()
    assert "NAME sits upstairs." in path.read_text()


PASSAGES = [PromptPassage("a", "A", "short"), PromptPassage("b", "B", "a longer one")]


@pytest.fixture
def ordering(engine: Engine, settings: Settings) -> Iterator[Reranking]:
    made = Reranking(settings, engine, patient=True)
    yield made
    made.close()


def test_a_reranker_chooses_among_more_than_are_shown(engine: Engine, settings: Settings) -> None:
    finder = PassageFinder(settings, engine, patient=True)
    store(engine, "Parking costs nothing.", "Parking is behind the house, which takes a while.")
    with session(engine) as opened:
        [best] = finder.find(opened, "Where is parking?", 1)
    assert "behind the house" in best.text
    finder.close()


def test_passages_stay_as_found_while_a_reranker_hangs(
    ordering: Reranking, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [one.id for one in ordering.ordered("Why?", PASSAGES)] == ["b", "a"]
    assert ordering.ordered("Will it hang?", PASSAGES) == PASSAGES
    assert ordering.ordered("Why?", PASSAGES) == PASSAGES
    monkeypatch.setattr(ordering, "_not_before", 0.0)
    assert ordering.ordered("Why?", PASSAGES) == PASSAGES[::-1]


def test_nobody_waits_for_a_reranker_that_is_slow_to_start(
    engine: Engine, settings: Settings
) -> None:
    file = settings.plugins_folder / "mine.py"
    file.write_text("import time; time.sleep(2)\n" + file.read_text())
    slow = Reranking(settings, engine)
    began = time.monotonic()
    assert slow.ordered("Why?", PASSAGES) == PASSAGES
    assert time.monotonic() - began < 1
    eventually(lambda: slow.ordered("Why?", PASSAGES) == PASSAGES[::-1])
    slow.close()


def test_without_a_reranker_nothing_is_asked(engine: Engine, tmp_path: Path) -> None:
    none = Reranking(Settings(home=tmp_path), engine)
    assert not none
    assert none.ordered("Why?", PASSAGES) == PASSAGES
