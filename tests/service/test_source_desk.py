"""Sources are tried, made, changed, synced and removed on the page; those of the file are not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy import Engine
from sqlmodel import select

from plugins.contract import Complete, Document, Rejected, SourceError
from plugins.hookspecs import hookimpl
from service import audit, secrets_of_options, source_desk
from service.database import session
from service.errors import SettingsError
from service.plugin_fields import OptionField
from service.plugin_host import PluginHost
from service.retrieval import retrieve
from service.secrets_of_options import MASK, masked, revealed
from service.settings import SignalSettings, SourceSettings
from service.source_desk import SourceDesk
from service.tables import Document as StoredDocument
from service.tables import GoldAnswer, StageReport
from tests.journeys.server import eventually
from tests.service.trained import train
from tests.service.web_client import Caller, web_app

SECRET = OptionField("api_key", "The key of the wiki.", "secret")
GYM = "# Gym\n\nThe gym opens at six.\n\n## Who may use the gym every day?\n\n" + (
    "Everybody who works here may use the gym every single day of the week.\n"
)


class WikiSettings(BaseModel):
    """Settings of a wiki."""

    api_key: SecretStr = Field(description="The key of the wiki.")
    pages: int = Field(default=1, description="How many.")


class Wiki:
    """A data source plugin with a secret, whose behaviour a test chooses."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.may_go_on = threading.Event()
        self.items: list[Any] = [Document("1", "Parking", "Park behind the house."), Complete()]

    def plugin(self) -> ModuleType:
        module = ModuleType("wiki")
        wiki = self

        class Source:
            """The pages of a wiki. They are made up."""

            name = "wiki"
            Settings = WikiSettings

            def __init__(self, settings: WikiSettings) -> None:
                wiki.seen.append(
                    {"api_key": settings.api_key.get_secret_value(), "pages": settings.pages}
                )

            def items(self, cursor: Any) -> Iterator[Any]:
                for item in wiki.items:
                    if item is wiki.may_go_on:
                        wiki.may_go_on.wait(30)
                        continue
                    if isinstance(item, Exception):
                        raise item
                    yield item

        module.__dict__["heed_data_sources"] = hookimpl(
            lambda: (Source,), specname="heed_data_sources"
        )
        return module


@pytest.fixture
def wiki() -> Wiki:
    return Wiki()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "sources" / "handbook"
    made.mkdir(parents=True)
    (made / "gym.md").write_text(GYM)
    return made


def desk_with(wiki: Wiki) -> SourceDesk:
    def load() -> PluginHost:
        host = PluginHost.load()
        host.register("wiki", wiki.plugin())
        return host

    return SourceDesk(load)


@pytest.fixture
def operator(engine: Engine, tmp_path: Path, wiki: Wiki) -> Iterator[Caller]:
    settings = {
        "visitors": "operator",
        "sync_schedule": "15 * * * *",
        "sources": (SourceSettings(name="filed", plugin="wiki", options={"api_key": "hunter2"}),),
        "signals": (SignalSettings(name="short", plugin="concise", weight=0.2),),
    }
    with web_app(engine, tmp_path, desk=desk_with(wiki), **settings) as app:
        yield Caller(app)


def handbook(folder: Path, **more: Any) -> dict[str, Any]:
    options = {"path": str(folder), **more}
    return {"name": "handbook", "plugin": "markdown_folder", "options": options}


def found(caller: Caller, name: str) -> dict[str, Any]:
    response = caller.get(f"/api/sources/{name}")
    assert response.status_code == 200, response.text
    detail: dict[str, Any] = response.json()
    return detail


def synced(caller: Caller, name: str) -> dict[str, Any]:
    assert caller.post(f"/api/sources/{name}/sync").status_code == 202
    eventually(lambda: found(caller, name)["source"]["status"] != "syncing")
    return found(caller, name)


def test_sources_are_listed_with_their_plugins_and_next_sync(operator: Caller) -> None:
    listed = operator.get("/api/sources").json()
    [filed] = listed["sources"]
    assert (filed["name"], filed["origin"], filed["status"]) == ("filed", "file", "new")
    assert filed["options"] == {"api_key": MASK}
    plugins = {plugin["name"]: plugin["options"] for plugin in listed["plugins"]}
    assert [option["name"] for option in plugins["markdown_folder"]] == [
        "path",
        "pattern",
        "questions",
    ]
    assert plugins["wiki"] == [
        {
            "name": "api_key",
            "help": "The key of the wiki.",
            "kind": "secret",
            "default": None,
            "required": True,
            "choices": [],
        },
        {
            "name": "pages",
            "help": "How many.",
            "kind": "number",
            "default": 1,
            "required": False,
            "choices": [],
        },
    ]
    assert {plugin["name"]: plugin["help"] for plugin in listed["plugins"]}["wiki"] == (
        "The pages of a wiki."
    )
    assert listed["schedule"] == "15 * * * *"
    assert "15:00" in listed["next_sync"]


def test_a_source_is_tried_before_it_is_made(
    engine: Engine, operator: Caller, folder: Path
) -> None:
    looked = operator.post("/api/preview-source", handbook(folder)).json()
    assert looked["error"] is None
    assert [record["kind"] for record in looked["records"]] == ["document", "gold pair"]
    assert "opens at six" in looked["records"][0]["text"]
    wrong = operator.post("/api/preview-source", handbook(folder, pattern="*.txt")).json()
    assert "holds no file that matches" in wrong["error"]
    with session(engine) as opened:
        assert opened.exec(select(StoredDocument)).all() == []


def test_a_source_is_made_synced_changed_and_removed_with_all_it_brought(
    engine: Engine, operator: Caller, folder: Path
) -> None:
    made = operator.post("/api/sources", handbook(folder))
    assert made.status_code == 201, made.text
    detail = synced(operator, "handbook")
    assert (detail["source"]["status"], detail["source"]["documents"]) == ("fine", 1)
    assert detail["reports"][0]["added"] == 2
    changed = handbook(folder, questions=False) | {"generation": 1}
    del changed["name"]
    assert operator.put("/api/sources/handbook/settings", changed).json()["generation"] == 2
    stale = operator.put("/api/sources/handbook/settings", changed)
    assert stale.status_code == 409
    assert "meanwhile" in stale.json()["detail"]
    assert synced(operator, "handbook")["source"]["gold_answers"] == 0
    assert operator.delete("/api/sources/handbook").status_code == 204
    with session(engine) as opened:
        assert retrieve(opened, "When does the gym open?", 2) == []
        assert [row.state for row in opened.exec(select(GoldAnswer))] == ["removed"]
        actions = [entry.entry.action for entry in audit.entries(opened, action="source")]
    assert sorted(set(actions)) == [
        "source.changed",
        "source.made",
        "source.removed",
        "source.synced",
    ]
    assert operator.delete("/api/sources/nothing").status_code == 404


def test_a_source_of_the_file_is_read_only_and_keeps_its_name(
    operator: Caller, folder: Path
) -> None:
    assert operator.post("/api/sources", handbook(folder) | {"name": "filed"}).status_code == 409
    body = {"plugin": "markdown_folder", "options": {"path": str(folder)}, "generation": 0}
    changed = operator.put("/api/sources/filed/settings", body)
    assert changed.status_code == 409
    assert "settings file" in changed.json()["detail"]
    assert operator.delete("/api/sources/filed").status_code == 409
    operator.post("/api/sources", handbook(folder))
    assert operator.post("/api/sources", handbook(folder)).status_code == 409


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "Hand Book"}, "small letters"),
        ({"plugin": "nothing"}, "heed plugins list"),
        ({"options": {}}, "option path"),
        ({"options": {"path": "/etc"}}, "source_folders"),
        ({"options": {"path": "sources/../../.."}}, "source_folders"),
        ({"options": {"path": 7}}, "give text"),
        ({"options": {"path": "x", "colour": "red"}}, "unknown"),
    ],
)
def test_a_source_that_cannot_be_is_refused_with_what_would_be_right(
    operator: Caller, folder: Path, change: dict[str, Any], told: str
) -> None:
    refused = operator.post("/api/sources", handbook(folder) | change)
    assert refused.status_code == 422
    assert told in refused.json()["detail"]


def test_a_link_out_of_the_allowed_folders_is_no_way_out(
    operator: Caller, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "private").mkdir()
    (folder.parent / "out").symlink_to(tmp_path / "private")
    refused = operator.post("/api/sources", handbook(folder.parent / "out"))
    assert refused.status_code == 422


def test_a_secret_is_given_by_reference_and_reaches_the_plugin_alone(
    engine: Engine, operator: Caller, wiki: Wiki, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"name": "wiki", "plugin": "wiki", "options": {"api_key": "hunter2"}}
    refused = operator.post("/api/sources", body)
    assert refused.status_code == 422
    assert "hunter2" not in refused.text
    body["options"] = {"api_key": "env:HEED_SECRET_WIKI"}
    unset = operator.post("/api/sources", body)
    assert "HEED_SECRET_WIKI, which is not set" in unset.json()["detail"]
    monkeypatch.setenv("HEED_SECRET_WIKI", "hunter2")
    made = operator.post("/api/sources", body)
    assert made.json()["options"] == {"api_key": "env:HEED_SECRET_WIKI"}
    assert wiki.seen[-1] == {"api_key": "hunter2", "pages": 1}
    for variable in ("env:HEED_DATABASE_URL", "env:PATH", "file:../heed.toml", "file:/etc/shadow"):
        body["options"] = {"api_key": variable}
        assert operator.post("/api/sources", body).status_code == 422


def test_a_secret_stands_in_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets_of_options, "FOLDER", tmp_path)
    (tmp_path / "wiki").write_text("hunter2\n")
    assert revealed({"api_key": "file:wiki"}, [SECRET], "x") == {"api_key": "hunter2"}
    with pytest.raises(SettingsError, match=r"x\.options\.api_key"):
        revealed({"api_key": "file:none"}, [SECRET], "x")
    assert revealed({"title": "file:wiki"}, [SECRET], "x") == {"title": "file:wiki"}


def test_what_sounds_secret_is_masked_where_a_plugin_says_nothing() -> None:
    options = {"url": "http://wiki", "Api-Key": "hunter2", "password": "env:HEED_SECRET_A"}
    assert masked(options, None) == options | {"Api-Key": MASK}
    assert masked({"keyboard": "qwertz"}, ()) == {"keyboard": "qwertz"}


def test_a_sync_shows_that_it_goes_on_and_is_not_begun_twice(operator: Caller, wiki: Wiki) -> None:
    wiki.items = [Document("1", "A", "Text."), wiki.may_go_on, Complete()]
    assert operator.post("/api/sources/filed/sync").status_code == 202
    eventually(lambda: found(operator, "filed")["source"]["read_so_far"] == 1)
    assert found(operator, "filed")["source"]["status"] == "syncing"
    assert operator.post("/api/sources/filed/sync").status_code == 409
    wiki.may_go_on.set()
    eventually(lambda: found(operator, "filed")["source"]["status"] == "fine")


def test_a_failure_and_every_rejected_item_are_shown(operator: Caller, wiki: Wiki) -> None:
    wiki.items = [Document("1", "A", "Text."), *(Rejected(f"row {n}", "is bad") for n in range(9))]
    wiki.items += [Complete()]
    detail = synced(operator, "filed")
    assert detail["reports"][0]["rejected_count"] == 9
    assert detail["reports"][0]["rejected"][8] == {"where": "row 8", "reason": "is bad"}
    [listed] = operator.get("/api/sources").json()["sources"]
    assert len(listed["report"]["rejected"]) == 5
    wiki.items = [SourceError("the wiki is down; ask its owner")]
    detail = synced(operator, "filed")
    assert detail["source"]["status"] == "failed"
    assert "the wiki is down" in detail["reports"][0]["error"]
    assert detail["source"]["documents"] == 1


def test_a_source_that_hangs_does_not_hold_the_page(
    operator: Caller, wiki: Wiki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_desk, "LONGEST_LOOK_S", 0.2)
    wiki.items = [wiki.may_go_on, Complete()]
    looked = operator.post("/api/sources/filed/preview").json()
    assert "did not answer within" in looked["error"]
    wiki.may_go_on.set()


def test_what_a_vanished_source_brought_can_be_removed(
    engine: Engine, operator: Caller, tmp_path: Path, wiki: Wiki
) -> None:
    synced(operator, "filed")
    with web_app(engine, tmp_path, desk=desk_with(wiki), visitors="operator") as app:
        later = Caller(app)
        [gone] = later.get("/api/sources").json()["sources"]
        assert (gone["origin"], gone["documents"]) == ("gone", 1)
        assert later.delete("/api/sources/filed").status_code == 204
        assert later.get("/api/sources").json()["sources"] == []


def test_a_signal_is_tried_on_a_text(operator: Caller) -> None:
    [signal] = operator.get("/api/signals").json()["signals"]
    assert (signal["name"], signal["weight"], signal["error"]) == ("short", 0.2, None)
    assert (signal["most"], signal["versions"]) == (0.2, [])
    body = {"question": "How long?", "answer": "Short."}
    read = operator.post("/api/signals/short/read", body).json()
    assert read == {"reading": 1.0, "reward": 0.2, "error": None}
    long = operator.post("/api/signals/short/read", body | {"answer": "word " * 200}).json()
    assert long["reading"] == -1.0
    assert operator.post("/api/signals/none/read", body).status_code == 404
    assert operator.post("/api/signals/short/read", body | {"answer": " "}).status_code == 422


def test_a_cap_cuts_off_what_a_signal_makes_of_a_reward(
    engine: Engine, tmp_path: Path, wiki: Wiki
) -> None:
    capped = SignalSettings(name="short", plugin="concise", weight=0.5, cap=0.2)
    changed = {"visitors": "operator", "signals": (capped,)}
    with web_app(engine, tmp_path, desk=desk_with(wiki), **changed) as app:
        caller = Caller(app)
        listed = caller.get("/api/signals").json()
        assert (listed["signals"][0]["most"], listed["most"]) == (0.2, 0.2)
        body = {"question": "How long?", "answer": "Short."}
        read = caller.post("/api/signals/short/read", body).json()
        assert read == {"reading": 1.0, "reward": 0.2, "error": None}


def test_what_signals_read_of_each_version_is_listed(
    engine: Engine, tmp_path: Path, wiki: Wiki
) -> None:
    made = train(engine, tmp_path / "run")
    read = {"mean": 0.25, "read": 30, "abstained": 10}
    nothing = {"mean": None, "read": 0, "abstained": 40}
    with session(engine) as opened:
        query = select(StageReport).where(StageReport.stage == "evaluation")
        report = opened.exec(query).one()
        report.figures = {"signals": {"short": {"candidate": read, "live": nothing}}}
        opened.add(report)
    short = SignalSettings(name="short", plugin="concise")
    other = SignalSettings(name="other", plugin="concise")
    changed = {"visitors": "operator", "signals": (short, other)}
    with web_app(engine, tmp_path, desk=desk_with(wiki), **changed) as app:
        listed = Caller(app).get("/api/signals").json()["signals"]
    assert [signal["versions"] for signal in listed] == [
        [
            {
                "run_id": made.run,
                "version": 2,
                "state": "live",
                "mean": 0.25,
                "read": 30,
                "of": 40,
                "live_mean": None,
            }
        ],
        [],
    ]


def test_only_operators_see_sources(engine: Engine, tmp_path: Path) -> None:
    with web_app(engine, tmp_path, visitors="reviewer") as app:
        caller = Caller(app)
        for path in ("/api/sources", "/api/sources/filed", "/api/signals"):
            assert caller.get(path).status_code == 403
