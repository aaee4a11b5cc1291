"""Operators see, try, make, change, sync and remove sources, and try signals, on any screen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import Engine

from service.database import session
from service.settings import SignalSettings, SourceSettings
from service.tables import PolicyVersion, StageReport, TrainingRun
from tests.pages.conftest import Browse, Theme, Width, axe, fits, shot

looks = pytest.mark.parametrize(
    ("width", "theme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light")]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("handbook")
    (made / "gym.md").write_text("# Gym\n\nThe gym opens at six.\n")
    (made / "empty.md").write_text("\n")
    return made


@pytest.fixture(scope="module")
def site_settings(folder: Path) -> dict[str, Any]:
    handbook = SourceSettings(
        name="handbook", plugin="markdown_folder", options={"path": str(folder)}
    )
    broken = SourceSettings(name="faq", plugin="faq_csv", options={"path": str(folder / "no.csv")})
    return {
        "visitors": "operator",
        "sources": (handbook, broken),
        "source_folders": (folder,),
        "sync_schedule": "15 * * * *",
        "signals": (SignalSettings(name="short", plugin="concise", weight=0.2),),
    }


@pytest.fixture
def page(browse: Browse) -> Iterator[Page]:
    opened = browse("/sources", allowed=("409", "422"))
    expect(card(opened, "handbook")).to_be_visible()
    yield opened


def card(page: Page, name: str) -> Any:
    heading = page.get_by_role("heading", name=name)
    return page.locator("li.card").filter(has=heading)


@looks
def test_sources_show_how_they_are(browse: Browse, width: Width, theme: Theme) -> None:
    page = browse("/sources", width, theme)
    for name in ("handbook", "faq"):
        card(page, name).get_by_role("button", name="Sync now").click()
    expect(card(page, "handbook").get_by_text("fine")).to_be_visible(timeout=20_000)
    expect(card(page, "faq").get_by_text("failed")).to_be_visible(timeout=20_000)
    expect(card(page, "faq").get_by_text("cannot be read")).to_be_visible()
    card(page, "handbook").get_by_text("1 item was rejected").click()
    expect(card(page, "handbook").get_by_text("has no text")).to_be_visible()
    expect(page.get_by_text("All are synced next")).to_be_visible()
    axe(page)
    fits(page)
    shot(page, f"sources-{width}-{theme}")
    card(page, "handbook").get_by_role("link", name="handbook").click()
    expect(page.get_by_role("heading", name="Last syncs")).to_be_visible()
    expect(page.get_by_role("button", name="Change")).to_have_count(0)
    axe(page)
    fits(page)


def test_a_source_is_tried_by_mouse(page: Page) -> None:
    card(page, "handbook").get_by_role("button", name="Test and preview").click()
    dialog = page.get_by_role("dialog", name="What handbook brings")
    expect(dialog.get_by_text("The gym opens at six.")).to_be_visible()
    axe(page)
    dialog.get_by_role("button", name="Close").click()
    card(page, "faq").get_by_role("button", name="Test and preview").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("cannot be read")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_source_is_made_changed_and_removed_by_keyboard(page: Page, folder: Path) -> None:
    page.get_by_role("button", name="Add a source").press("Enter")
    dialog = page.get_by_role("dialog", name="Add a source")
    axe(page)
    dialog.get_by_label("Name").focus()
    page.keyboard.type("notes")
    dialog.get_by_label("Plugin").select_option("markdown_folder")
    dialog.get_by_label("path").focus()
    page.keyboard.type("/etc")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("source_folders")
    dialog.get_by_label("path").fill(str(folder))
    dialog.get_by_role("button", name="Test and preview").press("Enter")
    expect(dialog.get_by_text("The gym opens at six.")).to_be_visible()
    dialog.get_by_role("button", name="Add", exact=True).press("Enter")
    expect(dialog).to_have_count(0)
    notes = card(page, "notes")
    expect(notes.get_by_text("It has not been read yet.")).to_be_visible()
    notes.get_by_role("button", name="Change").press("Enter")
    change = page.get_by_role("dialog", name="Change notes")
    change.get_by_label("pattern").fill("gym.*")
    change.get_by_role("button", name="Save").press("Enter")
    expect(change).to_have_count(0)
    notes.get_by_role("button", name="Sync now").press("Enter")
    expect(notes.get_by_text("fine")).to_be_visible(timeout=20_000)
    notes.get_by_role("button", name="Remove").press("Enter")
    ask = page.get_by_role("dialog", name="Remove notes?")
    ask.get_by_role("button", name="Cancel").press("Enter")
    expect(notes).to_be_visible()
    notes.get_by_role("button", name="Remove").press("Enter")
    ask.get_by_role("button", name="Remove").press("Enter")
    expect(notes).to_have_count(0)


def tried(page: Page) -> Any:
    """The options that the form sends when it is tried."""
    with page.expect_request("**/api/preview-source") as sent:
        page.get_by_role("dialog").get_by_role("button", name="Test and preview").click()
    return json.loads(sent.value.post_data or "{}")["options"]


def test_what_is_typed_stays_as_typed_and_is_read_when_it_is_tried(page: Page) -> None:
    page.get_by_role("button", name="Add a source").click()
    dialog = page.get_by_role("dialog", name="Add a source")
    dialog.get_by_label("Plugin").select_option("files")
    dialog.get_by_label("seconds").press_sequentially("0.05")
    expect(dialog.get_by_label("seconds")).to_have_value("0.05")
    for _press in range(2):
        assert tried(page) == {"seconds": 0.05}
    dialog.get_by_label("Plugin").select_option("slack_export")
    dialog.get_by_label("channels").press_sequentially("general\nnews")
    with page.expect_response("**/api/sources"):
        pass
    expect(page.get_by_role("heading", name="handbook")).to_be_attached()
    expect(dialog.get_by_label("channels")).to_have_value("general\nnews")
    assert tried(page) == {"channels": ["general", "news"]}


def test_the_form_of_a_source_fits_a_phone(browse: Browse) -> None:
    page = browse("/sources", "phone", "dark")
    page.get_by_role("button", name="Add a source").click()
    expect(page.get_by_role("dialog", name="Add a source")).to_be_visible()
    axe(page)
    fits(page)


@pytest.fixture
def evaluated(page_database: Engine) -> None:
    """A version of whose answers the signal read three of four."""
    with session(page_database) as opened:
        if opened.get(TrainingRun, "judged") is not None:
            return
        opened.add(PolicyVersion(id="b" * 16, number=2, kind="ppo", state="rejected"))
        opened.flush()
        run = TrainingRun(
            id="judged", state="refused", folder="runs/judged", requested_by="a test",
            reason="asked", candidate_id="b" * 16,
        )  # fmt: skip
        opened.add(run)
        opened.flush()
        read = {"mean": 0.25, "read": 30, "abstained": 10}
        figures = {"signals": {"short": {"candidate": read, "live": read | {"mean": -0.5}}}}
        opened.add(StageReport(run_id="judged", stage="evaluation", seconds=1.0, figures=figures))


@looks
@pytest.mark.usefixtures("evaluated")
def test_readings_are_drawn_by_version(browse: Browse, width: Width, theme: Theme) -> None:
    page = browse("/signals", width, theme)
    figure = page.locator("figure.plot").filter(has_text="short")
    expect(figure).to_contain_text("Of 40 answers of version 2 it read 30.")
    figure.get_by_text("As a table").click()
    expect(figure.get_by_role("row").nth(1)).to_contain_text("0.25")
    expect(figure.get_by_role("row").nth(1)).to_contain_text("-0.5")
    axe(page)
    fits(page)
    shot(page, f"signal-versions-{width}-{theme}")


@looks
def test_a_signal_is_tried_on_a_text(browse: Browse, width: Width, theme: Theme) -> None:
    page = browse("/signals", width, theme)
    expect(page.get_by_role("row", name="short")).to_contain_text("20%")
    axe(page)
    fits(page)
    shot(page, f"signals-{width}-{theme}")
    page.get_by_label("Question").fill("How long?")
    page.get_by_label("Answer to judge").fill("Short.")
    page.get_by_role("button", name="Read it").press("Enter")
    expect(page.get_by_text("It reads +1.00")).to_be_visible()
    axe(page)
