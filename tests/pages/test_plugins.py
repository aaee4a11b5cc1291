"""Operators see how plugins do, and switch them off and on, by mouse and keyboard."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import Engine

from service.database import session
from service.plugin_hosted import Called
from service.plugin_state import note_all
from service.settings import SignalSettings
from tests.pages.conftest import Browse, Theme, Width, axe, fits, shot

looks = pytest.mark.parametrize(
    ("width", "theme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light")]
)


@pytest.fixture(scope="module")
def site_settings(tmp_path_factory: pytest.TempPathFactory, page_database: Engine) -> Any:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "broken.py").write_text("raise OSError('no licence')\n")
    calls = [
        Called("concise", "read(answer) of signals.short", 0.25, 41, None),
        *[Called("grounded", "read(answer) of signals.x", 2.0, 52, "boom", True)] * 5,
    ]
    with session(page_database) as opened:
        note_all(opened, calls, 5)
    return {
        "visitors": "operator",
        "plugin_folder": folder,
        "signals": (SignalSettings(name="short", plugin="concise"),),
    }


def card(page: Page, name: str) -> Any:
    return page.locator("li.card").filter(has=page.get_by_role("heading", name=name))


@looks
def test_plugins_show_how_they_do(browse: Browse, width: Width, theme: Theme) -> None:
    page = browse("/plugins", width, theme)
    concise = card(page, "concise")
    expect(concise.get_by_text("used by signal short")).to_be_visible(timeout=20_000)
    expect(concise.get_by_text("1 calls", exact=False)).to_be_visible()
    expect(concise.get_by_text("250 ms on average")).to_be_visible()
    expect(concise.get_by_text("41 MB")).to_be_visible()
    expect(card(page, "broken").get_by_text("OSError: no licence").first).to_be_visible()
    grounded = card(page, "grounded")
    expect(grounded.get_by_text("it failed 5 times in a row")).to_be_visible()
    grounded.get_by_text("Last error").click()
    expect(grounded.get_by_text("boom")).to_be_visible()
    axe(page)
    fits(page)
    shot(page, f"plugins-{width}-{theme}")


def test_a_plugin_is_switched_off_and_on(browse: Browse) -> None:
    page = browse("/plugins")
    concise = card(page, "concise")
    concise.get_by_role("button", name="Switch concise off").click()
    dialog = page.get_by_role("dialog", name="Switch concise off?")
    expect(dialog.get_by_text("It is used by signal short.")).to_be_visible()
    dialog.get_by_role("button", name="Switch off").click()
    expect(concise.get_by_text("switched off", exact=True)).to_be_visible()
    on = concise.get_by_role("button", name="Switch concise on")
    on.focus()
    page.keyboard.press("Enter")
    expect(concise.get_by_role("button", name="Switch concise off")).to_be_visible()
    expect(concise.get_by_text("switched off", exact=True)).to_have_count(0)
