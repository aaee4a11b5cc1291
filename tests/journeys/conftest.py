"""The tiny policy behind a real server, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from service.database import session
from service.settings import AnswerSettings, Settings, TrainingSettings
from service.tables import DataSource, Document, Passage
from tests.journeys.server import Served, serving
from tests.tiny import tiny_base

ONE_DATABASE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
"""For tests of streams, stops and the API's form, each of which takes seconds: how the same rows
are written on either kind of database is tested elsewhere."""
LEAVE = "Everybody has 28 days of annual leave a year. Unused days end on 31 March."


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def settings_for(engine: Engine, base: Path, home: Path, **over: Any) -> Settings:
    """Settings for quick answers of the tiny policy; nothing is scheduled."""
    answers = {"max_new_tokens": 24, "temperature": 1.0, **over.pop("answers", {})}
    return Settings(
        **{
            "home": home,
            "database_url": engine.url.render_as_string(hide_password=False),
            "base_policy": str(base),
            "threads": 1,
            "dtype": "float32",
            "visitors": "operator",
            "sync_schedule": None,
            "cleanup_schedule": None,
            "training": TrainingSettings(schedule=None),
            "answers": AnswerSettings(**answers),
            **over,
        }
    )


@pytest.fixture
def make_settings(tmp_path: Path, base: Path, engine: Engine) -> Callable[..., Settings]:
    return partial(settings_for, engine, base, tmp_path / "home")


@pytest.fixture
def handbook(engine: Engine) -> None:
    """One document with one passage, as a sync leaves it."""
    with session(engine) as opened:
        source = DataSource(name="handbook", plugin="markdown_folder")
        opened.add(source)
        opened.flush()
        document = Document(
            source_id=source.id,
            external_id="leave.md",
            title="Annual leave",
            text=LEAVE,
            readers=["everyone"],
            content_hash="1",
        )
        opened.add(document)
        opened.flush()
        opened.add(Passage(document_id=document.id, position=0, heading="How much", text=LEAVE))


@pytest.fixture
def served(
    make_settings: Callable[..., Settings], engine: Engine, handbook: None
) -> Iterator[Served]:
    """A server that answers questions."""
    with serving(make_settings(), engine) as running:
        yield running
