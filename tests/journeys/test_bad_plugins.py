"""A chat goes on whatever a plugin does in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from service.plugin_limits import PluginLimits
from service.settings import PluginUse, Settings
from tests.journeys.server import serving
from tests.service.sources import store

PLUGIN = """
import os, time
import pluggy

hookimpl = pluggy.HookimplMarker("heed")
{top}


class Bad:
    name = "bad"

    def __init__(self, settings): ...

    def rerank(self, question, passages):
        {body}


@hookimpl
def heed_rerankers():
    return [Bad]
"""
QUESTION = "Where is the parking place?"
PAGES = ("Parking is behind the house.", "Parking costs nothing.", "The parking place closes.")


@pytest.mark.parametrize(
    ("top", "body"),
    [
        ("", "time.sleep(600)"),
        ("", "os._exit(7)"),
        ("", "return ['high']"),
        ("time.sleep(600)", "return []"),
    ],
)
def test_a_question_is_answered_whatever_the_reranker_does(
    engine: Engine, make_settings: Callable[..., Settings], tmp_path: Path, top: str, body: str
) -> None:
    (tmp_path / "bad.py").write_text(PLUGIN.format(top=top, body=body))
    store(engine, *PAGES)
    given: dict[str, Any] = {
        "plugin_folder": tmp_path,
        "plugins_loaded": ("bad",),
        "plugin_limits": PluginLimits(rerank_s=1, start_s=3),
        "rerankers": (PluginUse(name="bad", plugin="bad"),),
        "answers": {"source_bar": 0},
    }
    with serving(make_settings(**given), engine) as served:
        visitor = served.visitor()
        began = time.monotonic()
        for _ in range(3):
            stream = visitor.ask(QUESTION)
            assert (stream.error, stream.last) == (None, "done")
            assert stream.turn["passages"]
        assert time.monotonic() - began < 20
