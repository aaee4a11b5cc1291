"""The page in a real browser: an answer survives a refresh and a network that fails."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine
from sqlmodel import select

from service.database import migrate, open_database, session
from service.tables import Candidate
from tests.journeys.conftest import settings_for
from tests.journeys.server import Served, serving
from tests.journeys.test_overload import slow_engine
from tests.journeys.test_page import ask, browser
from tests.tiny import tireless_base

__all__ = ["browser"]

TOKENS = 400


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose answers take a few seconds."""
    folder = tmp_path_factory.mktemp("resumes")
    database: Engine = open_database(f"sqlite:///{folder}/heed.db")
    migrate(database)
    answers = {"compare_share": 0, "temperature": 0.3, "max_new_tokens": TOKENS}
    settings = settings_for(database, tireless_base(folder / "base"), folder, answers=answers)
    with serving(settings, database, engine_factory=slow_engine) as it:
        yield it
    database.dispose()


@pytest.fixture
def page(browser: Browser, site: Served) -> Iterator[Page]:
    context = browser.new_context()
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(site.url)
    expect(opened.get_by_title("The policy version that answers now")).to_have_text("v0")
    yield opened
    context.close()
    assert wrong == []


def begun(page: Page) -> None:
    ask(page, two=False)
    expect(page.locator(".answer.writing .text")).to_have_text(re.compile(r"\S"))


def test_a_refreshed_page_goes_on_with_the_answer(page: Page, site: Served) -> None:
    begun(page)
    page.reload()
    expect(page.locator(".answer.writing .text")).to_have_text(re.compile(r"\S"))
    ends_whole(page, site)


def test_a_lost_connection_is_made_again_and_the_answer_goes_on(page: Page, site: Served) -> None:
    begun(page)
    site.cut()
    page.wait_for_timeout(300)
    site.cut()
    ends_whole(page, site)


def test_stopping_keeps_what_was_written(page: Page, site: Served) -> None:
    begun(page)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("You stopped this answer.")).to_be_visible()
    expect(page.get_by_role("button", name="Bad answer")).to_be_visible()
    with session(site.engine) as opened:
        row = opened.exec(select(Candidate)).one()
    assert row.finish_reason == "cancelled"
    assert len(row.token_ids) < TOKENS


def ends_whole(page: Page, site: Served) -> None:
    """One answer, with all its tokens, shown as it is stored."""
    expect(page.get_by_role("button", name="Bad answer")).to_have_count(1, timeout=20_000)
    expect(page.get_by_role("alert")).to_have_count(0)
    with session(site.engine) as opened:
        row = opened.exec(select(Candidate)).one()
    assert (row.finish_reason, len(row.token_ids)) == ("length", TOKENS)
    assert page.locator(".answer .text").text_content() == row.text
