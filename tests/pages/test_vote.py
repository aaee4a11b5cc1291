"""The voting page and one's own feedback, by mouse and by keys, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import Engine
from sqlmodel import Session, select

from service.database import session
from service.feedback import current_comparisons
from service.people import simulated_person
from service.tables import (
    Candidate,
    Comparison,
    Conversation,
    GoldAnswer,
    Person,
    PolicyVersion,
    Thumb,
    Turn,
)
from service.vote_pairs import Pairing, keep
from tests.journeys.server import Served, eventually
from tests.pages.conftest import Browse, Theme, Width, axe, fits, shot

PAIRS = 80
UNDO_S = 5

looks = pytest.mark.parametrize(
    ("width", "theme"),
    [("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark")],
)


@pytest.fixture(scope="module")
def site_settings() -> dict[str, Any]:
    voting = {"undo_s": UNDO_S, "check_share": 0}
    return {"visitors": "employee", "answers": {"compare_share": 0}, "voting": voting}


@pytest.fixture(scope="module", autouse=True)
def pairs(site: Served) -> None:
    """Pairs of a simulated person's questions, answered by the version that is loaded."""
    with session(site.engine) as opened:
        version = opened.exec(select(PolicyVersion)).one()
        person = simulated_person(opened, "asker")
        for number in range(PAIRS):
            question = f"How many days of leave are there in year {number}?"
            add_pair(opened, person, version.id, question, f"There are **{number + 20}** days.")


def add_pair(opened: Session, person: Person, version: str, question: str, answer: str) -> None:
    talk = Conversation(person_id=person.id, title=question, simulated=True)
    opened.add(talk)
    opened.flush()
    turn = Turn(
        conversation_id=talk.id, position=0, question=question, compared=True, simulated=True
    )
    opened.add(turn)
    opened.flush()
    for side, text in (("A", answer), ("B", "Ask somebody else, please.")):
        opened.add(
            Candidate(
                turn_id=turn.id,
                side=side,
                version_id=version,
                text=text,
                finish_reason="stop",
                seed=1,
                simulated=True,
            )
        )
    keep(opened, turn, person.id, Pairing(True, "simulated", 1.0))


@pytest.fixture
def votes(page_database: Engine) -> Callable[[], list[Comparison]]:
    """The votes that came since the test began, oldest first."""
    with session(page_database) as opened:
        before = set(opened.exec(select(Comparison.id)))

    def found() -> list[Comparison]:
        with session(page_database) as opened:
            rows = opened.exec(select(Comparison).order_by(Comparison.created_at)).all()  # type: ignore[arg-type]
        return [row for row in rows if row.id not in before]

    return found


def question(page: Page) -> str:
    heading = page.locator("#pair-question")
    expect(heading).to_be_visible()
    return heading.inner_text()


def pressed(page: Page, key: str) -> None:
    """Press a key and wait for the next question."""
    before = question(page)
    page.keyboard.press(key)
    expect(page.locator("#pair-question")).not_to_have_text(before)


@looks
def test_a_pair_is_voted_on_by_one_click(
    browse: Browse, votes: Callable[[], list[Comparison]], width: Width, theme: Theme
) -> None:
    page = browse("/vote", width, theme)
    first = question(page)
    axe(page)
    fits(page)
    shot(page, f"vote-{width}-{theme}")
    page.get_by_role("button", name="A is better").click()
    expect(page.locator(".toast")).to_contain_text("A is better. Thank you.")
    expect(page.locator("#pair-question")).not_to_have_text(first)
    axe(page)
    fits(page)
    shot(page, f"voted-{width}-{theme}")
    [row] = votes()
    assert (row.choice, row.strength, row.interface, row.pairing) == ("A", None, "vote/1", "queue")
    assert row.decision_ms is not None
    assert row.shown_at is not None


def test_every_choice_has_its_key(browse: Browse, votes: Callable[[], list[Comparison]]) -> None:
    page = browse("/vote")
    for key in "12345ab0s":
        pressed(page, key)
    assert [(row.choice, row.strength) for row in votes()] == [
        ("A", "much"),
        ("A", "slightly"),
        ("tie", None),
        ("B", "slightly"),
        ("B", "much"),
        ("A", None),
        ("B", None),
        ("both_bad", None),
        ("skip", None),
    ]
    total = page.locator(".own-voting > div", has_text="Your votes in all")
    expect(total.locator("dd")).to_have_text("8")


def test_every_button_can_be_reached_and_pressed_by_keyboard(
    browse: Browse, votes: Callable[[], list[Comparison]]
) -> None:
    page = browse("/vote", "phone")
    first = question(page)
    page.locator("#pair-question").focus()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").startswith("Both are bad"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#pair-question")).not_to_have_text(first)
    expect(page.locator("#pair-question")).to_be_focused()
    assert [row.choice for row in votes()] == ["both_bad"]


def test_an_undone_vote_brings_the_pair_back_and_may_be_given_again(
    browse: Browse, page_database: Engine, votes: Callable[[], list[Comparison]]
) -> None:
    page = browse("/vote")
    first = question(page)
    pressed(page, "a")
    page.keyboard.press("u")
    expect(page.locator("#pair-question")).to_have_text(first)
    pressed(page, "b")
    page.get_by_role("button", name="Undo").last.click()
    expect(page.locator("#pair-question")).to_have_text(first)
    assert [row.choice for row in votes()] == ["A", "withdrawn", "B", "withdrawn"]
    with session(page_database) as opened:
        turns = {row.turn_id for row in votes()}
        assert not [row for row in current_comparisons(opened) if row.turn_id in turns]


def test_the_versions_are_told_after_the_vote_is_settled_and_not_before(browse: Browse) -> None:
    page = browse("/vote")
    bodies: list[str] = []
    page.on(
        "response",
        lambda response: (
            bodies.append(response.text()) if "/api/vote-queue" in response.url else None
        ),
    )
    pressed(page, "1")
    expect(page.get_by_text("answer B by version")).to_be_hidden()
    told = page.get_by_text("Your last pair: answer A was by version 0, answer B by version 0.")
    expect(told).to_be_visible(timeout=1000 * (UNDO_S + 5))
    assert bodies
    assert not [body for body in bodies if "version" in body or "canary" in body]


def test_what_is_typed_as_a_reason_is_no_vote(
    browse: Browse, votes: Callable[[], list[Comparison]]
) -> None:
    page = browse("/vote")
    first = question(page)
    page.get_by_text("Say why (optional)").click()
    page.get_by_label("Your reason goes with your choice.").press_sequentially("as 1 says")
    axe(page)
    assert votes() == []
    page.get_by_role("button", name="B is slightly better").click()
    expect(page.locator("#pair-question")).not_to_have_text(first)
    [row] = votes()
    assert (row.choice, row.strength, row.reason) == ("B", "slightly", "as 1 says")


def test_a_failed_vote_says_so_and_keeps_the_pair(browse: Browse) -> None:
    page = browse("/my-feedback", allowed=("503",))
    page.route(
        "**/api/vote-queue/*",
        lambda route: (
            route.fulfill(status=503, json={"detail": "The database is busy."})
            if route.request.method == "POST"
            else route.continue_()
        ),
    )
    page.get_by_role("link", name="Vote", exact=True).click()
    first = question(page)
    page.keyboard.press("3")
    expect(page.get_by_role("alert")).to_contain_text("The database is busy.")
    assert question(page) == first
    axe(page)


def test_when_nothing_waits_the_page_says_so(browse: Browse) -> None:
    page = browse("/my-feedback")
    page.route("**/api/vote-queue", lambda route: route.fulfill(json={"offer": None}))
    page.get_by_role("link", name="Vote", exact=True).click()
    expect(page.get_by_text("Nothing waits for your vote.")).to_be_visible()
    axe(page)
    fits(page)


@looks
def test_feedback_is_seen_changed_and_withdrawn(
    browse: Browse, votes: Callable[[], list[Comparison]], width: Width, theme: Theme
) -> None:
    page = browse("/vote", width, theme)
    asked = question(page)
    pressed(page, "1")
    page = browse("/my-feedback", width, theme, context=page.context)
    card = page.get_by_role("listitem").filter(has_text=asked)
    expect(card.get_by_text("A is better, by much")).to_be_visible()
    axe(page)
    fits(page)
    shot(page, f"my-feedback-{width}-{theme}")
    card.get_by_role("button", name="Change what you said").press("Enter")
    page.get_by_label("Your choice").select_option("tie")
    axe(page)
    page.get_by_role("button", name="Save").click()
    expect(card.get_by_text("About the same")).to_be_visible()
    card.get_by_role("button", name="Withdraw what you said").click()
    axe(page)
    page.get_by_role("dialog").get_by_role("button", name="Withdraw").click()
    expect(card.get_by_text("You took it back")).to_be_visible()
    expect(card.get_by_role("button")).to_have_count(0)
    eventually(lambda: [row.choice for row in votes()] == ["A", "tie", "withdrawn"])


def test_thumbs_and_corrections_are_listed_by_kind(browse: Browse, page_database: Engine) -> None:
    page = browse("/my-feedback")
    expect(page.get_by_text("Nothing yet. A thumb")).to_be_visible()
    with session(page_database) as opened:
        visitor = opened.exec(
            select(Person).where(Person.kind != "simulated").order_by(Person.created_at.desc())  # type: ignore[attr-defined]
        ).first()
        assert visitor is not None
        answer = opened.exec(select(Candidate.id)).first()
        add_feedback(opened, visitor, str(answer))
    page.reload()
    expect(page.get_by_role("listitem").filter(has_text="Thumb up")).to_have_count(1)
    page.get_by_label("Show", exact=True).select_option("Corrected answers")
    expect(page.get_by_text("It waits for a reviewer.")).to_be_visible()
    expect(page.get_by_text("Thumb up")).to_have_count(0)
    page.get_by_role("button", name="Change what you said").click()
    page.get_by_label("The right answer").fill("31 days.")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("blockquote")).to_have_text("31 days.")


def add_feedback(opened: Any, visitor: Person, answer: str) -> None:
    """A thumb and a correction of this visitor, as the chat would store them."""
    opened.add(Thumb(candidate_id=answer, person_id=visitor.id, value=1))
    opened.add(
        GoldAnswer(
            external_id="x",
            question="How many?",
            answer="30 days.",
            origin="correction",
            state="proposed",
            person_id=visitor.id,
            candidate_id=answer,
            content_hash="",
        )
    )
