"""heed check: what is wrong is found and named, each area by itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from service.check import Finding, check
from service.database import migrate, open_database
from service.settings import Settings, SignalSettings, SourceSettings, TrainingSettings
from tests.tiny import tiny_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def settings(base: Path, tmp_path: Path) -> Settings:
    (tmp_path / "gold.csv").write_text("question,answer\nWhen?,At nine.\n")
    return Settings(
        home=tmp_path / "home",
        base_policy=str(base),
        sources=(
            SourceSettings(
                name="gold", plugin="faq_csv", options={"path": str(tmp_path / "gold.csv")}
            ),
        ),
        signals=(SignalSettings(name="short", plugin="concise"),),
    )


def wrong(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.state == "wrong"]


def test_a_fresh_installation_is_fine_and_what_is_still_to_come_is_noted(
    settings: Settings,
) -> None:
    findings = check(settings)
    assert wrong(findings) == []
    assert {finding.area for finding in findings} == {
        "settings",
        "folder",
        "database",
        "base policy",
        "plugins",
    }
    assert any("not there yet" in f.text for f in findings if f.area == "database")
    assert not settings.home.exists(), "check changes nothing"


def test_a_migrated_database_is_fine(settings: Settings) -> None:
    engine = open_database(settings.database)
    migrate(engine)
    engine.dispose()
    states = {f.state for f in check(settings) if f.area == "database"}
    assert states == {"fine"}


def _bad_plan(settings: Settings) -> Settings:
    training = TrainingSettings(plan={"ppo": {"clip_range": 9}})
    return settings.model_copy(update={"training": training})


def _bad_schedule(settings: Settings) -> Settings:
    return settings.model_copy(update={"sync_schedule": "now and then"})


def _bad_option(settings: Settings) -> Settings:
    source = SourceSettings(name="gold", plugin="faq_csv", options={"pathh": "x"})
    return settings.model_copy(update={"sources": (source,)})


def _bad_plugin(settings: Settings) -> Settings:
    return settings.model_copy(update={"signals": (SignalSettings(name="x", plugin="nope"),)})


def _bad_base(settings: Settings) -> Settings:
    folder = settings.home.parent / "no-base"
    folder.mkdir()
    return settings.model_copy(update={"base_policy": str(folder)})


def _bad_database(settings: Settings) -> Settings:
    path = settings.home.parent / "text.db"
    path.write_text("no database at all, but a text that is long enough to be looked at")
    return settings.model_copy(update={"database_url": f"sqlite:///{path}"})


@pytest.mark.parametrize(
    ("spoil", "area", "said"),
    [
        (_bad_plan, "settings", "clip_range is 9"),
        (_bad_schedule, "settings", "sync_schedule"),
        (_bad_option, "plugins", "path"),
        (_bad_plugin, "plugins", "nope"),
        (_bad_base, "base policy", "config.json"),
        (_bad_database, "database", "text.db"),
    ],
)
def test_what_is_wrong_is_named_and_the_rest_is_looked_at(
    settings: Settings, spoil: Callable[[Settings], Settings], area: str, said: str
) -> None:
    findings = check(spoil(settings))
    assert [finding.area for finding in wrong(findings)] == [area]
    assert said in wrong(findings)[0].text
    assert {finding.area for finding in findings} >= {"settings", "folder", "database", "plugins"}


def test_a_live_policy_whose_folder_is_gone_is_wrong(settings: Settings) -> None:
    engine = open_database(settings.database)
    migrate(engine)
    engine.dispose()
    with sqlite3.connect(settings.home / "heed.db") as connection:
        connection.execute(
            "INSERT INTO policy_version (id, number, kind, state, figures, created_at) "
            "VALUES ('abc', 1, 'sft', 'live', '{}', '2026-01-01 00:00:00')"
        )
        connection.execute(
            "INSERT INTO alias (name, version_id, generation, moved_at) "
            "VALUES ('live', 'abc', 1, '2026-01-01 00:00:00')"
        )
    connection.close()
    assert ["abc" in finding.text for finding in wrong(check(settings))] == [True]
