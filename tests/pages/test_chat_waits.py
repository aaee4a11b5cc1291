"""The chat in a real browser while the server is slow or refuses: a question finds its place."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect

from tests.pages.conftest import Browse
from tests.pages.test_chat import ask, over

BUSY = '{"title": "Busy", "status": 503, "detail": "Too many wait. Ask again in a moment."}'


def refuse_once(page: Page, address: str) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=503, content_type="application/json", body=BUSY)

    page.route(address, refuse, times=1)


def test_a_question_waits_for_the_chat_that_is_being_opened(browse: Browse) -> None:
    page = browse("/")
    ask(page, "First")
    held: list[Route] = []
    page.route("**/api/conversations/*", lambda route: held.append(route), times=1)
    page.reload()
    box = page.get_by_role("textbox", name="Ask a question")
    box.fill("Second")
    box.press("Enter")
    expect(box).to_have_value("Second")
    held[0].continue_()
    expect(page.locator(".turn")).to_have_count(1)
    box.press("Enter")
    expect(page.locator(".turn")).to_have_count(2)
    over(page)


@pytest.mark.parametrize("temporary", [False, True])
def test_a_chat_that_could_not_be_read_is_tried_again_before_it_goes_on(
    browse: Browse, temporary: bool
) -> None:
    page = browse("/", allowed=("503",))
    page.get_by_label("Temporary chat").set_checked(temporary)
    ask(page, "First")
    refuse_once(page, "**/api/conversations/*")
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("Too many wait")
    box = page.get_by_role("textbox", name="Ask a question")
    box.fill("Second")
    box.press("Enter")
    expect(box).to_have_value("Second")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator(".turn")).to_have_count(1)
    box.press("Enter")
    expect(page.locator(".turn")).to_have_count(2)
    over(page)
    expect(page.get_by_text("nothing of it is stored")).to_have_count(1 if temporary else 0)


def test_a_changed_question_that_was_refused_is_asked_again_in_its_place(browse: Browse) -> None:
    page = browse("/", allowed=("503",))
    ask(page, "First")
    refuse_once(page, "**/api/ask")
    page.keyboard.press("Alt+e")
    editor = page.get_by_role("textbox", name="Your question, changed")
    editor.fill("First, changed")
    editor.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Too many wait")
    page.get_by_role("button", name="Ask again").click()
    over(page)
    expect(page.locator(".turn")).to_have_count(1)
    branches = page.get_by_role("group", name="Branches of this question")
    expect(branches).to_contain_text("2/2")
