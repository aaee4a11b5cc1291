"""Pictures of the pages, taken in Chromium from a running server: docs/images/pages/.

    heed demo --once --home demo
    HEED_CONFIG=demo/heed.toml heed serve &
    python docs/make_screenshots.py http://127.0.0.1:8321

The server must let visitors in as administrators, as the demonstration does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
FOLDER = Path(__file__).with_name("images") / "pages"
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 800}
QUESTION = "How many days of annual leave do I have in Leeds?"
# Of several questions one has two answers that differ; equal ones are not voted on.
OPEN_QUESTIONS = (
    "What should I do when I am ill?",
    "How do I claim travel expenses?",
    "Tell me about working from home.",
)
PATIENCE_MS = 60_000


def ask(page: Page, question: str, *, two: bool) -> None:
    """Ask on the chat page and wait until the answer, or both, have ended."""
    page.get_by_label("Show two answers").set_checked(two)
    page.get_by_label("Ask a question").fill(question)
    page.get_by_label("Ask a question").press("Enter")
    expect(page.get_by_text(question).first).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_have_count(0, timeout=PATIENCE_MS)
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_visible()


def two_answers(page: Page) -> None:
    """A question with two blind answers."""
    ask(page, QUESTION, two=True)
    expect(page.get_by_text("Which answer is better?")).to_be_visible(timeout=PATIENCE_MS)


def waiting_pair(page: Page) -> None:
    """The voting page after a question with two answers, left undecided."""
    address = page.url
    for question in OPEN_QUESTIONS:
        page.goto(address.replace("/vote", "/"))
        ask(page, question, two=True)
    page.goto(address)
    expect(page.get_by_role("button", name="Both are bad")).to_be_visible(timeout=PATIENCE_MS)


def one_answer(page: Page) -> None:
    """A question with one answer and its sources."""
    ask(page, QUESTION, two=False)


def first_row(page: Page) -> None:
    """The detail behind a list's first link."""
    page.locator("main a").first.click()
    page.wait_for_load_state("networkidle")


def curves(page: Page) -> None:
    """What the newest run measured, drawn."""
    first_row(page)
    page.get_by_role("tab", name="Curves").click()
    page.wait_for_timeout(1500)


def as_it_is(page: Page) -> None:
    """The page as it opens."""


PICTURES: list[tuple[str, str, Callable[[Page], None]]] = [
    ("chat", "/", one_answer),
    ("comparison", "/", two_answers),
    ("vote", "/vote", waiting_pair),
    ("my-feedback", "/my-feedback", as_it_is),
    ("review", "/review", as_it_is),
    ("figures", "/feedback", as_it_is),
    ("leaderboard", "/leaderboard", as_it_is),
    ("run", "/runs", curves),
    ("policies", "/policies", as_it_is),
    ("sources", "/sources", as_it_is),
]


def take(browser: Browser, url: str, name: str, path: str, prepare: Callable[[Page], None]) -> None:
    """One picture on a desktop in light colours, and one on a phone in dark ones."""
    for suffix, size, theme in (("", DESKTOP, "light"), ("-phone", PHONE, "dark")):
        context = browser.new_context(viewport=size, color_scheme=theme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(url + path)
        expect(page.get_by_role("main")).not_to_be_empty()
        page.wait_for_timeout(1500)
        prepare(page)
        page.wait_for_timeout(500)
        page.screenshot(path=FOLDER / f"{name}{suffix}.png")
        sys.stdout.write(f"{name}{suffix}.png\n")
        context.close()


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--only", nargs="*", help="names of the pictures to take")
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, path, prepare in PICTURES:
            if not asked.only or name in asked.only:
                take(browser, asked.url, name, path, prepare)
        browser.close()


if __name__ == "__main__":
    main()
