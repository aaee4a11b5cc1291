"""The page in a real browser, wide and small: ask, see two answers, vote by keyboard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from sqlalchemy import Engine
from sqlmodel import select

from service import feedback, people, policies
from service.database import migrate, open_database, session
from service.tables import (
    Candidate,
    Comparison,
    Conversation,
    GateReport,
    GoldAnswer,
    StageReport,
    Thumb,
    TrainingRun,
    Turn,
)
from tests.journeys.conftest import settings_for
from tests.journeys.server import Served, serving

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
QUESTION = "How many days of <b>annual</b> leave do I have?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        message = f"{CHROMIUM} is missing; install Debian's chromium to test the page"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path_factory.mktemp('page')}/heed.db")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def site(
    database: Engine, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    with serving(settings_for(database, base, home, answers={"compare_share": 0}), database) as it:
        yield it


@pytest.fixture(params=["wide", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser, site: Served) -> Iterator[Page]:
    wide = request.param == "wide"
    context = browser.new_context(
        viewport={"width": 1280, "height": 860} if wide else {"width": 390, "height": 780},
        color_scheme="light" if wide else "dark",
    )
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda line: wrong.append(line.text) if is_wrong(line) else None)
    opened.goto(site.url)
    expect(opened.get_by_title("The policy version that answers now")).to_have_text("v0")
    yield opened
    context.close()
    assert wrong == []


def is_wrong(line: ConsoleMessage) -> bool:
    """A refusal that a test asks for is no fault of the page."""
    return line.type == "error" and "409 (Conflict)" not in line.text


def ask(page: Page, question: str = QUESTION, *, two: bool) -> None:
    page.get_by_label("Show two answers").set_checked(two)
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Tab")
    page.get_by_label("Your question").press("Enter")


def keep(page: Page, name: str) -> None:
    """Leave a picture for whoever wants to look at it."""
    folder = os.environ.get("HEED_SCREENSHOTS")
    if folder:
        width = page.viewport_size["width"] if page.viewport_size else 0
        page.screenshot(path=f"{folder}/{name}-{width}.png")


def test_two_answers_are_compared_by_keyboard_alone(page: Page, site: Served) -> None:
    ask(page, two=True)
    vote = page.get_by_role("group", name="Which answer is better?")
    expect(vote).to_be_visible()
    expect(vote).to_be_focused()
    expect(page.get_by_role("region", name="Answer A")).to_be_visible()
    expect(page.get_by_role("region", name="Answer B")).to_be_visible()
    expect(page.get_by_text(QUESTION)).to_be_visible()
    keep(page, "vote")
    page.keyboard.press("4")
    expect(page.get_by_text("You said: B is slightly better. Thank you.")).to_be_visible()
    keep(page, "voted")
    with session(site.engine) as opened:
        row = opened.exec(select(Comparison).order_by(Comparison.created_at.desc())).first()  # type: ignore[attr-defined]
    assert row is not None
    assert (row.choice, row.strength) == ("B", "slightly")
    assert row.decision_ms is not None

    page.get_by_role("button", name="Change").press("Enter")
    page.keyboard.press("0")
    expect(page.get_by_text("You said: Both are bad. Thank you.")).to_be_visible()
    with session(site.engine) as opened:
        changed = opened.exec(select(Comparison).where(Comparison.replaces_id == row.id)).one()
    assert changed.choice == "both_bad"


def test_whoever_types_on_writes_the_next_question(page: Page) -> None:
    ask(page, two=True)
    expect(page.get_by_role("group", name="Which answer is better?")).to_be_focused()
    page.keyboard.type("And now")
    expect(page.get_by_label("Your question")).to_have_value("And now")


def test_thumbs_reasons_and_corrections_are_kept(page: Page, site: Served) -> None:
    ask(page, two=False)
    answer = page.get_by_role("region", name="Answer")
    answer.get_by_role("button", name="Bad answer").click()
    answer.get_by_label("What is the matter with it?").select_option("Out of date")
    answer.get_by_label("Anything to add?").fill("It changed in May")
    keep(page, "thumb")
    answer.get_by_role("button", name="Send").click()
    expect(answer.get_by_text("Thank you.")).to_be_visible()
    expect(answer.get_by_role("button", name="Bad answer")).to_have_attribute(
        "aria-pressed", "true"
    )
    answer.get_by_role("button", name="Correct it").click()
    answer.get_by_label("What should the answer have been?").fill("28 days")
    answer.get_by_role("button", name="Send the correction").click()
    expect(answer.get_by_text("Somebody will check it")).to_be_visible()
    with session(site.engine) as opened:
        reasons = opened.exec(select(Thumb.reason, Thumb.comment)).all()
        assert ("Out of date", "It changed in May") in reasons
        assert "28 days" in opened.exec(select(GoldAnswer.answer)).all()


def test_an_earlier_chat_comes_back_with_its_feedback(page: Page, site: Served) -> None:
    ask(page, "What was it again?", two=True)
    expect(page.get_by_role("group", name="Which answer is better?")).to_be_focused()
    page.keyboard.press("1")
    expect(page.get_by_text("You said: A is much better")).to_be_visible()
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_text("What would you like to know?")).to_be_visible()
    page.get_by_role("button", name="Chats").click()
    keep(page, "chats")
    page.get_by_role("button", name="What was it again?").click()
    expect(page.get_by_text("You said: A is much better")).to_be_visible()


def test_training_and_policies_are_shown_with_simulated_votes_marked(
    page: Page, site: Served
) -> None:
    simulated_vote(site.engine)
    page.get_by_role("button", name="Training", exact=True).click()
    panel = page.get_by_role("complementary", name="Training and policies")
    expect(panel.get_by_text("simulated").first).to_be_visible()
    expect(panel.get_by_text("v0", exact=True)).to_be_visible()
    expect(panel.get_by_role("button", name="Train now")).to_be_visible()
    panel.get_by_role("button", name="Roll back").click()
    expect(panel.get_by_text("there is no earlier version to go back to")).to_be_visible()
    keep(page, "training")


def test_a_run_shows_its_gate_and_figures(page: Page, site: Served, tmp_path: Path) -> None:
    with session(site.engine) as opened:
        run = TrainingRun(
            state="refused", folder=str(tmp_path), requested_by="Ada", reason="nightly"
        )
        opened.add(run)
        opened.flush()
        opened.add(GateReport(run_id=run.id, passed=False, sentence="Win rate 0.41 is below 0.5."))
        opened.add(StageReport(run_id=run.id, stage="sft", seconds=61, figures={"loss": 1.23456}))
    page.get_by_role("button", name="Training", exact=True).click()
    card = page.get_by_role("listitem").filter(has_text="Win rate 0.41 is below 0.5.").first
    expect(card).to_be_visible()
    card.get_by_text("Figures").click()
    expect(card.get_by_text("sft, 61 s")).to_be_visible()
    expect(card.get_by_text("loss: 1.235")).to_be_visible()
    keep(page, "run")


def test_a_small_screen_never_scrolls_sideways(page: Page) -> None:
    ask(page, "w" * 600, two=True)
    expect(page.get_by_role("group", name="Which answer is better?")).to_be_visible()
    wider = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    assert wider is False


def simulated_vote(engine: Engine) -> None:
    """A thumb as the demonstration's voter leaves it."""
    with session(engine) as opened:
        voter = people.simulated_person(opened, "voter")
        version = policies.live_version(opened)
        conversation = Conversation(person_id=voter.id, title="x", simulated=True)
        opened.add(conversation)
        opened.flush()
        turn = Turn(conversation_id=conversation.id, position=0, question="x", simulated=True)
        opened.add(turn)
        opened.flush()
        answer = Candidate(
            turn_id=turn.id,
            version_id=version.id,
            text="y",
            finish_reason="stop",
            seed=1,
            simulated=True,
        )
        opened.add(answer)
        opened.flush()
        feedback.record_thumb(opened, voter, answer.id, 1)
