"""Reviewers decide on what waits and read the figures, by mouse and by keyboard, on any screen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from sqlalchemy import Engine
from sqlmodel import col, select, update

from service.database import session
from service.feedback import propose_correction, record_thumb
from service.review_tables import VerifiedAnswer
from service.tables import GoldAnswer, Turn
from tests.pages.conftest import Browse, Theme, Width, axe, fits, shot
from tests.service.conversations import Talk, make_talk, record_comparison

RIGHT = "There are 28 days of leave a year."
HOSTILE = "<img src=x onerror=alert(1)> **28 days**"

looks = pytest.mark.parametrize(
    ("width", "theme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light")]
)


@pytest.fixture(scope="module")
def site_settings() -> dict[str, Any]:
    return {"visitors": "reviewer"}


def propose(engine: Engine, question: str, answer: str = RIGHT) -> Talk:
    talk = make_talk(engine, question)
    with session(engine) as opened:
        propose_correction(opened, talk.person, talk.candidate_a, answer)
    return talk


def report(engine: Engine, question: str) -> Talk:
    talk = make_talk(engine, question)
    with session(engine) as opened:
        record_thumb(opened, talk.person, talk.candidate_a, -1, "Out of date", "since May")
    return talk


def leave_without_source(engine: Engine, question: str) -> Talk:
    talk = make_talk(engine, question)
    with session(engine) as opened:
        turn = opened.get_one(Turn, talk.turn)
        bare = {**turn.prompt, "passages": []}
        opened.execute(update(Turn).where(col(Turn.id) == talk.turn).values(prompt=bare))
    return talk


def card(page: Page, question: str) -> Any:
    return page.get_by_role("listitem").filter(
        has=page.get_by_role("heading", name=question, exact=True)
    )


def choose(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def shown_answer(engine: Engine, question: str) -> str | None:
    of_question = select(VerifiedAnswer.answer).where(
        VerifiedAnswer.question == question, col(VerifiedAnswer.withdrawn_at).is_(None)
    )
    with session(engine) as opened:
        return opened.exec(of_question).first()


@looks
def test_the_queues_can_be_read_by_everybody(
    browse: Browse, page_database: Engine, width: Width, theme: Theme
) -> None:
    propose(page_database, "How is the queue read?", HOSTILE)
    report(page_database, "Who reports answers?")
    leave_without_source(page_database, "Who owns the roof?")
    page = browse("/review", width, theme)
    expect(card(page, "How is the queue read?").first).to_be_visible()
    page.get_by_text("it rested on").first.click()
    expect(page.get_by_text("Everybody has 25 days.").first).to_be_visible()
    axe(page)
    fits(page)
    shot(page, f"review-{width}-{theme}")
    for tab, question in (
        ("Reported", "Who reports answers?"),
        ("No source", "Who owns the roof?"),
    ):
        choose(page, tab)
        expect(card(page, question).first).to_be_visible()
        axe(page)
        fits(page)
    choose(page, "Verified")
    expect(page.get_by_label("Find")).to_be_visible()
    axe(page)


def test_a_correction_is_edited_and_accepted_by_mouse(
    browse: Browse, page_database: Engine
) -> None:
    question = "How many days of leave are there by mouse?"
    propose(page_database, question)
    page = browse("/review")
    waiting = card(page, question)
    waiting.get_by_label("Right answer").fill(HOSTILE)
    waiting.get_by_role("button", name="Accept").click()
    expect(waiting).to_have_count(0)
    expect(page.get_by_text("The answer is shown from now on.")).to_be_visible()
    assert shown_answer(page_database, question) == HOSTILE
    choose(page, "Verified")
    page.get_by_label("Find").fill("by mouse")
    verified = card(page, question)
    expect(verified.get_by_text("28 days")).to_be_visible()
    expect(verified.locator("img")).to_have_count(0)
    expect(verified.get_by_text("Verified by")).to_be_visible()


def test_a_correction_is_rejected_by_keyboard(browse: Browse, page_database: Engine) -> None:
    question = "How many days of leave are there by keyboard?"
    talk = propose(page_database, question)
    page = browse("/review")
    waiting = card(page, question)
    waiting.get_by_role("button", name="Reject").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Reject this correction")
    expect(dialog).to_be_visible()
    axe(page)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    waiting.get_by_role("button", name="Reject").press("Enter")
    dialog.get_by_label("Why?").focus()
    page.keyboard.type("It is 25 days.")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(waiting).to_have_count(0)
    with session(page_database) as opened:
        of_person = select(GoldAnswer.state).where(GoldAnswer.person_id == talk.person.id)
        assert opened.exec(of_person).one() == "removed"


def test_a_question_that_cannot_stand_alone_is_explained_and_the_words_stay(
    browse: Browse, page_database: Engine
) -> None:
    propose(page_database, "Leave?", "28 days, always.")
    page = browse("/review", allowed=("422",))
    waiting = card(page, "Leave?")
    waiting.get_by_role("button", name="Accept").click()
    expect(waiting.get_by_role("alert")).to_contain_text("too short")
    expect(waiting.get_by_label("Right answer")).to_have_value("28 days, always.")
    axe(page)
    waiting.get_by_label("Question, in full").fill("How much leave does everybody have?")
    waiting.get_by_role("button", name="Accept").click()
    expect(waiting).to_have_count(0)


def test_somebody_else_was_faster(browse: Browse, page_database: Engine) -> None:
    propose(page_database, "Who is faster than me?")
    page = browse("/review", allowed=("409",))
    waiting = card(page, "Who is faster than me?")
    expect(waiting).to_be_visible()
    other = browse("/review", context=page.context)
    card(other, "Who is faster than me?").get_by_role("button", name="Accept").click()
    expect(card(other, "Who is faster than me?")).to_have_count(0)
    waiting.get_by_role("button", name="Accept").click()
    expect(waiting.get_by_role("alert")).to_contain_text("decided already")


def test_what_is_half_written_stays_where_more_cannot_be_read(
    browse: Browse, page_database: Engine
) -> None:
    question = "Is there more?"
    propose(page_database, question)

    def one_page_of_two(route: Route) -> None:
        if "after=" in route.request.url:
            route.fulfill(status=503, json={"detail": "Busy."})
            return
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "next": "x"})

    page = browse("/account", allowed=("503",))
    page.route("**/api/review/corrections*", one_page_of_two)
    page.goto(page.url.replace("/account", "/review"))
    field = card(page, question).get_by_label("Right answer")
    field.fill("Half an ans")
    page.get_by_role("button", name="Show more").click()
    with page.expect_request("**/api/review/corrections?after=x"):
        page.get_by_role("button", name="Try again").click()
    expect(field).to_have_value("Half an ans")


def test_reported_answers_and_questions_are_answered_or_settled(
    browse: Browse, page_database: Engine
) -> None:
    report(page_database, "Is the pool open?")
    report(page_database, "Is the sauna open?")
    leave_without_source(page_database, "Who owns the garden?")
    page = browse("/review", "phone")
    choose(page, "Reported")
    expect(card(page, "Is the pool open?").get_by_text("Out of date")).to_be_visible()
    card(page, "Is the sauna open?").get_by_role("button", name="Nothing to do").click()
    expect(card(page, "Is the sauna open?")).to_have_count(0)
    card(page, "Is the pool open?").get_by_role("button", name="Write the right answer").click()
    card(page, "Is the pool open?").get_by_label("Right answer").fill("Yes, all year.")
    card(page, "Is the pool open?").get_by_role("button", name="Show this answer").click()
    expect(card(page, "Is the pool open?")).to_have_count(0)
    choose(page, "No source")
    garden = card(page, "Who owns the garden?")
    garden.get_by_role("button", name="Write the right answer").press("Enter")
    garden.get_by_label("Right answer").fill("The city does.")
    garden.get_by_label("Right answer").press("Tab")
    page.keyboard.press("Enter")
    expect(garden).to_have_count(0)
    assert shown_answer(page_database, "Is the pool open?") == "Yes, all year."
    assert shown_answer(page_database, "Who owns the garden?") == "The city does."
    assert shown_answer(page_database, "Is the sauna open?") is None


def test_a_verified_answer_is_withdrawn(browse: Browse, page_database: Engine) -> None:
    question = "Which answer is withdrawn?"
    propose(page_database, question)
    page = browse("/review")
    card(page, question).get_by_role("button", name="Accept").click()
    expect(card(page, question)).to_have_count(0)
    choose(page, "Verified")
    card(page, question).get_by_role("button", name="Withdraw").click()
    dialog = page.get_by_role("dialog", name="Withdraw this answer")
    dialog.get_by_label("Why?").fill("The rule changed.")
    dialog.get_by_role("button", name="Withdraw", exact=True).click()
    expect(card(page, question)).to_have_count(0)
    assert shown_answer(page_database, question) is None


@looks
def test_the_figures_are_told_in_words_and_tables(
    browse: Browse, page_database: Engine, width: Width, theme: Theme
) -> None:
    talk = make_talk(page_database, "What do figures say?")
    with session(page_database) as opened:
        record_comparison(opened, talk.person, talk.turn, "A")
        record_thumb(opened, talk.person, talk.candidate_a, 1)
    page = browse("/feedback", width, theme)
    expect(page.get_by_role("heading", name="Agreement")).to_be_visible()
    expect(page.get_by_text("Too few to tell")).to_be_visible()
    axe(page)
    fits(page)
    shot(page, f"feedback-{width}-{theme}")
    page.get_by_label("Period", exact=True).select_option("7")
    expect(page.get_by_role("row").filter(has_text="Version")).to_have_count(1)
    page.get_by_label("Whose", exact=True).select_option("true")
    expect(page.get_by_text("Nothing was answered in this period.")).to_be_visible()
    leave_without_source(page_database, "Is parking free?")
    leave_without_source(page_database, "Where is the parking?")
    page.get_by_role("tab", name="Figures").press("ArrowRight")
    expect(page.get_by_role("heading", name="parking")).to_be_visible()
    axe(page)
    fits(page)


def test_days_are_the_same_west_of_greenwich(browse: Browse) -> None:
    page = browse("/account")
    zone = page.context.new_cdp_session(page)
    zone.send("Emulation.setTimezoneOverride", {"timezoneId": "America/Los_Angeles"})
    page.goto(page.url.replace("/account", "/feedback"))
    page.get_by_text("As a table").click()
    today = page.evaluate("new Date().toLocaleDateString([], { timeZone: 'UTC' })")
    days = page.get_by_role("region", name="A day").get_by_role("rowheader")
    expect(days.last).to_have_text(today)


def test_training_data_is_fetched_as_a_file(browse: Browse, page_database: Engine) -> None:
    propose(page_database, "What is trained on?")
    page = browse("/review")
    card(page, "What is trained on?").get_by_role("button", name="Accept").click()
    expect(card(page, "What is trained on?")).to_have_count(0)
    page.goto(page.url.replace("/review", "/feedback"))
    choose(page, "Training data")
    axe(page)
    with page.expect_download() as fetched:
        page.get_by_role("link", name="Right answers as JSON lines").click()
    rows = [json.loads(line) for line in fetched.value.path().read_text().splitlines()]
    assert "What is trained on?" in {row["prompt"][-1]["content"].split("\n")[-1] for row in rows}
    assert fetched.value.suggested_filename == "heed-prompt-completion.jsonl"
