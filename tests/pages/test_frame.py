"""The shell around every page: navigation, colours, addresses that are not there, what it loads."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from service.web.page import ADDRESSES, STATIC
from tests.journeys.server import Served
from tests.pages.conftest import Browse, Theme, Width, axe, fits, shot

SUMS = STATIC.parent / "vendor" / "SHA256SUMS"
MOST_FIRST_BYTES = 200_000

looks = pytest.mark.parametrize(
    ("width", "theme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "dark")]
)


@looks
def test_an_address_that_is_not_there_says_so(browse: Browse, width: Width, theme: Theme) -> None:
    page = browse("/runs/x", width, theme, allowed=("404",))
    page.evaluate("history.pushState(null, '', '/nowhere'); dispatchEvent(new Event('popstate'))")
    expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    axe(page)
    fits(page)
    shot(page, f"missing-{width}-{theme}")


def test_colours_can_be_chosen_and_stay(browse: Browse) -> None:
    page = browse("/account", theme="light")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.get_by_label("Colours").select_option("Dark")
    assert _paper(page) == "rgb(20, 24, 29)"
    page.reload()
    assert _paper(page) == "rgb(20, 24, 29)"
    page.get_by_label("Colours").select_option("As the system")
    assert _paper(page) == "rgb(251, 251, 249)"


def test_the_menu_of_a_phone_opens_and_closes_by_keyboard(browse: Browse) -> None:
    page = browse("/account", "phone")
    menu = page.get_by_role("button", name="Menu")
    expect(page.get_by_role("navigation", name="Pages")).to_be_hidden()
    menu.press("Enter")
    expect(page.get_by_role("navigation", name="Pages")).to_be_visible()
    axe(page)
    page.get_by_role("link", name="Chat", exact=True).press("Enter")
    expect(page.get_by_role("navigation", name="Pages")).to_be_hidden()
    assert page.url.endswith("/")


def test_an_address_that_is_not_well_written_says_so(browse: Browse) -> None:
    page = browse("/chat/%E0%A4%A")
    expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()


def test_a_link_past_the_navigation_moves_the_focus(browse: Browse) -> None:
    page = browse("/account?from=here")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.get_by_role("link", name="Skip to the page").press("Enter")
    expect(page.get_by_role("main")).to_be_focused()


def test_going_to_a_page_moves_the_focus_to_its_heading(browse: Browse) -> None:
    page = browse("/account")
    page.get_by_role("link", name="Training", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    page.go_back()
    expect(page).to_have_title("Your account · Heed")


def test_every_address_of_the_page_is_served(site: Served) -> None:
    for address in ADDRESSES:
        path = "/".join("x" if part.startswith("{") else part for part in address.split("/"))
        answer = httpx.get(site.url + path)
        assert (answer.status_code, answer.headers["content-type"]) == (
            200,
            "text/html; charset=utf-8",
        ), address


def test_the_page_and_the_server_know_the_same_addresses() -> None:
    table = (STATIC / "frame" / "routes.js").read_text(encoding="utf-8")
    for address in ADDRESSES:
        shape = address.split("{")[0]
        assert f'path: "{shape}' in table, f"{address} is served but shows no page"
    assert table.count("{ path:") == len(ADDRESSES) + 1, "a page has an address that is not served"


def test_the_first_load_is_small(browse: Browse, site: Served) -> None:
    page = browse("/")
    expect(page.get_by_role("main")).to_be_visible()
    page.wait_for_load_state("networkidle")
    names = page.evaluate("performance.getEntriesByType('resource').map(({name}) => name)")
    files = [name for name in names if "/static/" in name]
    assert len(files) > 5
    sent = 0
    for name in files:
        answer = httpx.get(name, headers={"Accept-Encoding": "gzip"})
        assert answer.headers.get("content-encoding") == "gzip" or len(answer.content) < 500, name
        sent += len(gzip.compress(answer.content))
    assert sent <= MOST_FIRST_BYTES


def test_vendored_files_are_those_that_were_built() -> None:
    lines = SUMS.read_text(encoding="utf-8").splitlines()
    named = dict(reversed(line.split(maxsplit=1)) for line in lines)
    folder = STATIC / "vendor"
    assert {path.name for path in folder.iterdir()} == set(named)
    for name, wanted in named.items():
        assert _sum(folder / name) == wanted, name


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _paper(page: Page) -> str:
    colour: str = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return colour
