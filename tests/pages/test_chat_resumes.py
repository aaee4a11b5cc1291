"""The chat in a real browser: an answer survives a refresh and a network that fails."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect
from sqlalchemy import Engine
from sqlmodel import col, select

from service.database import migrate, open_database, session
from service.tables import Candidate
from tests.journeys.conftest import settings_for
from tests.journeys.server import Served, serving
from tests.journeys.test_overload import slow_engine
from tests.pages.conftest import Browse, axe, shot
from tests.tiny import tireless_base

TOKENS = 400


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose answers take a few seconds."""
    folder = tmp_path_factory.mktemp("resumes")
    database: Engine = open_database(f"sqlite:///{folder}/heed.db")
    migrate(database)
    answers = {"compare_share": 0, "temperature": 0.3, "max_new_tokens": TOKENS}
    settings = settings_for(
        database, tireless_base(folder / "base"), folder, answers=answers, visitors="employee"
    )
    with serving(settings, database, engine_factory=slow_engine) as it:
        yield it
    database.dispose()


def begun(page: Page) -> None:
    page.get_by_role("textbox", name="Ask a question").fill("How long is it?")
    page.keyboard.press("Enter")
    writing(page)


def writing(page: Page) -> None:
    expect(page.locator(".answer[aria-busy=true] .markdown")).to_have_text(re.compile(r"\S"))


def newest(site: Served) -> Candidate:
    with session(site.engine) as opened:
        query = select(Candidate).order_by(col(Candidate.created_at).desc())
        row = opened.exec(query).first()
    assert row is not None
    return row


def ends_whole(page: Page, site: Served) -> None:
    """One answer, with all its tokens, shown as it is stored."""
    expect(page.get_by_role("button", name="Bad answer")).to_have_count(1, timeout=30_000)
    expect(page.get_by_role("alert")).to_have_count(0)
    row = newest(site)
    assert (row.finish_reason, len(row.token_ids)) == ("length", TOKENS)
    shown = page.locator(".answer .markdown").text_content() or ""
    assert _letters(shown) == _letters(row.text)


def _letters(text: str) -> str:
    """What Markdown leaves of a text."""
    return "".join(re.findall(r"[^\W_]", text))


def test_a_refreshed_page_goes_on_with_the_answer(browse: Browse, site: Served) -> None:
    page = browse("/")
    begun(page)
    axe(page)
    shot(page, "chat-streaming")
    page.reload()
    writing(page)
    ends_whole(page, site)


def test_a_lost_connection_is_made_again_and_the_answer_goes_on(
    browse: Browse, site: Served
) -> None:
    page = browse("/", allowed=("ERR_",))
    begun(page)
    site.cut()
    page.wait_for_timeout(300)
    site.cut()
    ends_whole(page, site)


def test_a_second_tab_follows_the_same_answer(browse: Browse, site: Served) -> None:
    page = browse("/")
    begun(page)
    expect(page).to_have_url(re.compile("/chat/[0-9a-f]{16}$"))
    other = browse(page.url.removeprefix(site.url), context=page.context)
    writing(other)
    ends_whole(other, site)
    ends_whole(page, site)


def test_stopping_keeps_what_was_written(browse: Browse, site: Served) -> None:
    page = browse("/")
    begun(page)
    page.keyboard.press("Escape")
    expect(page.get_by_text("This answer was ended early")).to_be_visible()
    expect(page.get_by_role("button", name="Bad answer")).to_be_visible()
    row = newest(site)
    assert row.finish_reason == "cancelled"
    assert len(row.token_ids) < TOKENS
    axe(page)


def test_a_stop_before_the_answer_has_begun_is_kept(browse: Browse, site: Served) -> None:
    page = browse("/")
    held: list[Route] = []
    page.route("**/api/ask", lambda route: held.append(route))
    page.get_by_role("textbox", name="Ask a question").fill("How long is it?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop").click()
    held[0].continue_()
    expect(page.get_by_text("This answer was ended early")).to_be_visible()
    assert newest(site).finish_reason == "cancelled"


def test_words_do_not_jump_while_an_answer_is_written(browse: Browse, site: Served) -> None:
    page = browse("/")
    begun(page)
    top = "document.querySelector('.answer .markdown').getBoundingClientRect().top + scrollY"
    tops = []
    for _look in range(10):
        tops.append(page.evaluate(top))
        page.wait_for_timeout(60)
    assert tops == pytest.approx([tops[0]] * 10, abs=1)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("This answer was ended early")).to_be_visible()
