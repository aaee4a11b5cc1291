"""The pages in a real browser: Debian's Chromium at a real server with the tiny policy.

A module takes `site` and `browse`. Every page that `browse` opens is watched: an error on the
console, a refused script or style, or a request to another origin fails the test that caused it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright
from sqlalchemy import Engine

from service.database import migrate, open_database
from tests.journeys.conftest import settings_for
from tests.journeys.server import Served, serving
from tests.tiny import tiny_base

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SIZES = {"desktop": {"width": 1280, "height": 860}, "phone": {"width": 360, "height": 740}}
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")

Width = Literal["desktop", "phone"]
Theme = Literal["light", "dark"]
Browse = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        message = f"{CHROMIUM} is missing; install Debian's chromium to test the pages"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def page_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The database behind `site`; a module's own fixtures may fill it."""
    engine = open_database(f"sqlite:///{tmp_path_factory.mktemp('pages')}/heed.db")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def site_settings() -> dict[str, Any]:
    """What a module's site has otherwise than the journeys' servers; override it there."""
    return {"visitors": "admin", "answers": {"compare_share": 0}}


@pytest.fixture(scope="module")
def site(
    page_database: Engine,
    site_settings: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """A server that answers questions with the tiny policy, at `site.url`."""
    base = tiny_base(tmp_path_factory.mktemp("base"))
    home = tmp_path_factory.mktemp("home")
    with serving(settings_for(page_database, base, home, **site_settings), page_database) as it:
        yield it


@pytest.fixture
def browse(browser: Browser, site: Served) -> Iterator[Browse]:
    """browse(path="/", width="desktop", theme="light", context=None) -> Page

    A page of its own visitor, or of the `context` of another page (another tab of the same
    visitor). `allowed` is a text that an expected line of the console holds, such as "409".
    """
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def opened(
        path: str = "/",
        width: Width = "desktop",
        theme: Theme = "light",
        context: BrowserContext | None = None,
        allowed: tuple[str, ...] = (),
    ) -> Page:
        if context is None:
            context = browser.new_context(
                viewport=SIZES[width],  # type: ignore[arg-type]
                color_scheme=theme,
                has_touch=width == "phone",
            )
            contexts.append(context)
        page = context.new_page()
        _watch(page, site.url, wrong, allowed)
        page.goto(site.url + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def _watch(page: Page, origin: str, wrong: list[str], allowed: tuple[str, ...]) -> None:
    def off_origin(request: Request) -> None:
        if not request.url.startswith((origin, "data:", "blob:", "about:")):
            wrong.append(f"a request to {request.url}")

    def told(text: str) -> None:
        if not any(part in text for part in allowed):
            wrong.append(text)

    page.on("request", off_origin)
    page.on("pageerror", lambda error: told(str(error)))
    page.on("console", lambda line: told(line.text) if line.type == "error" else None)


def axe(page: Page, *, without: tuple[str, ...] = ()) -> None:
    """Assert that the page as it stands violates no rule of WCAG 2.2 AA that can be tested."""
    options: dict[str, Any] = {"runOnly": {"type": "tag", "values": RULES}}
    if without:
        options["rules"] = {rule: {"enabled": False} for rule in without}
    results = Axe().run(page, options=options)
    found = [
        f"{broken['id']}: {broken['help']}: " + "; ".join(node["html"] for node in broken["nodes"])
        for broken in results.response["violations"]
    ]
    assert found == []
    assert results.response["passes"], "axe checked nothing; is the page empty?"


def fits(page: Page) -> None:
    """Assert that nothing makes the page scroll sideways."""
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than the window"


def shot(page: Page, name: str) -> None:
    """Leave a picture in the folder HEED_SCREENSHOTS for whoever wants to look at it."""
    folder = os.environ.get("HEED_SCREENSHOTS")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png")
