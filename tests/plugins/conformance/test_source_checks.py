"""Each check of a source passes one that keeps the contract, and fails one that does not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.conformance import source_items
from plugins.conformance.checking import Broken, Check
from plugins.conformance.source_reading import SourceSubject
from plugins.testing import SOURCE_CHECKS as CHECKS
from plugins.testing import SOURCE_HOOK, Place, source_tests
from service import source_items as host
from tests.plugins.conformance.broken_sources import BROKEN, opened
from tests.plugins.conformance.wiki import Wiki, WikiPlace

TestWiki = source_tests(Wiki, WikiPlace)


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    timeout = socket.getdefaulttimeout()
    yield
    socket.setdefaulttimeout(timeout)
    while opened:
        opened.pop().close()
    os.environ.pop("HEED_SECRET_BROKEN", None)


def subject(source: type, folder: Path, place: type[Place] = WikiPlace) -> SourceSubject:
    return SourceSubject(source, SOURCE_HOOK, place(folder))


def test_there_are_checks_and_each_says_what_holds() -> None:
    assert len(CHECKS) >= 50
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.sentence.endswith(".") for check in CHECKS)
    assert set(BROKEN) == {check.name for check in CHECKS}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_source_that_keeps_the_contract_passes(
    check: Check[SourceSubject], tmp_path: Path
) -> None:
    check.run(subject(Wiki, tmp_path))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_source_that_breaks_the_promise_fails(
    check: Check[SourceSubject], tmp_path: Path
) -> None:
    with pytest.raises(Broken) as told:
        check.run(subject(BROKEN[check.name], tmp_path))
    assert len(str(told.value)) > 20


def test_the_kit_and_the_host_take_texts_of_the_same_lengths() -> None:
    assert source_items.LONGEST == {
        "id": host.LONGEST_ID,
        "title": host.LONGEST_TITLE,
        "question": host.LONGEST_QUESTION,
        "answer": host.LONGEST_ANSWER,
        "text": host.LONGEST_DOCUMENT,
        "author": host.LONGEST_NAME,
        "url": host.LONGEST_URL,
    }
