"""A question through the whole service, answered by vLLM servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.database import migrate, open_database
from service.settings import VllmSettings
from tests.engines.conftest import MAX_LORAS, Kind
from tests.engines.vllm_process import API_KEY
from tests.journeys.conftest import settings_for
from tests.journeys.server import serving


def test_a_question_is_answered_by_the_servers(kind: Kind, tmp_path: Path) -> None:
    if not kind.urls:
        pytest.skip("the built-in engine's journeys are tests/journeys")
    database = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(database)
    vllm = VllmSettings(urls=kind.urls, api_key=API_KEY, max_loras=MAX_LORAS, timeout_s=120)
    settings = settings_for(database, kind.stored.base, tmp_path / "home", vllm=vllm)
    with serving(settings, database) as served:
        stream = served.visitor().ask("How many days of annual leave do I have?")
    database.dispose()
    assert stream.error is None
    assert stream.last == "done"
    assert stream.pieces[""].strip()
