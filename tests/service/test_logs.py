"""Log lines hold one event each and never what people wrote."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from service.logs import configure_logging


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)


def test_json_lines_hold_the_fields_but_no_private_ones(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json")
    structlog.get_logger("x").info("answer_stored", turn="t1", question="mine", text="my words")
    logging.getLogger("library").warning("said %s", "this")
    ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["turn"], ours["level"]) == ("answer_stored", "t1", "info")
    assert not {"question", "text"} & set(ours)
    assert (theirs["event"], theirs["level"]) == ("said this", "warning")


def test_text_lines_are_readable(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text")
    structlog.get_logger("x").warning("swap_failed", version="v7", answer="my words")
    line = capsys.readouterr().err
    assert "swap_failed" in line
    assert "v7" in line
    assert "my words" not in line
