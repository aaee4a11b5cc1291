"""The chat in a real browser: asking, branches, sources, feedback and chats, by mouse and key."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect
from sqlalchemy import Engine
from sqlmodel import col, select

from service.database import session
from service.review_tables import VerifiedAnswer
from service.same_question import wording
from service.tables import (
    Candidate,
    Comparison,
    DataSource,
    Document,
    GoldAnswer,
    Passage,
    Thumb,
    Turn,
)
from tests.pages.conftest import Browse, Theme, Width, axe, fits, shot

QUESTION = "How many days of <b>annual</b> leave do I have?"
LEAVE = "Everybody has 28 days of annual leave a year. Unused days end on 31 March."
VERIFIED = "Who waters the plants?"

looks = pytest.mark.parametrize(
    ("width", "theme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "dark")]
)


@pytest.fixture(scope="module", autouse=True)
def handbook(page_database: Engine) -> None:
    """A document of three passages, and a verified answer."""
    with session(page_database) as opened:
        source = DataSource(name="handbook", plugin="markdown_folder")
        gold = GoldAnswer(
            external_id="g", question=VERIFIED, answer="**Kim** does.", content_hash="1"
        )
        opened.add_all([source, gold])
        opened.flush()
        opened.add(
            VerifiedAnswer(
                gold_answer_id=gold.id,
                wording=wording(VERIFIED),
                question=VERIFIED,
                answer="**Kim** does.",
                by="Robin",
            )
        )
        document = Document(
            source_id=source.id,
            external_id="leave.md",
            title="Annual leave",
            text=LEAVE,
            readers=["everyone"],
            content_hash="1",
            url="https://intranet.example/leave",
        )
        opened.add(document)
        opened.flush()
        for at, text in enumerate(["Who decides.", LEAVE, "Whom to ask."]):
            opened.add(Passage(document_id=document.id, position=at, heading="Rules", text=text))


def ask(page: Page, question: str = QUESTION, *, two: bool = False) -> None:
    """Ask by keyboard and wait for the answer's end."""
    turns = page.locator(".turn").count()
    if two:
        page.get_by_label("Show two answers").check()
    box = page.get_by_role("textbox", name="Ask a question")
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    box.fill(question)
    box.press("Enter")
    expect(page.locator(".turn")).to_have_count(turns + 1)
    over(page)


def over(page: Page) -> None:
    expect(page.locator(".turn").last.get_by_role("button", name="Regenerate")).to_be_visible()


@looks
def test_an_answer_streams_and_every_state_is_accessible(
    browse: Browse, width: Width, theme: Theme
) -> None:
    page = browse("/", width, theme)
    expect(page.get_by_text("What would you like to know?")).to_be_visible()
    expect(page.get_by_role("textbox", name="Ask a question")).to_be_focused()
    axe(page)
    ask(page)
    expect(page.get_by_text(QUESTION).last).to_be_visible()
    expect(page).to_have_url(re.compile("/chat/[0-9a-f]{16}$"))
    # Spoken once it ended, not token by token.
    expect(page.locator("p[role=status][aria-live]")).to_contain_text("Answer:")
    axe(page)
    fits(page)
    shot(page, f"chat-{width}-{theme}")
    page.get_by_role("button", name=re.compile("Annual leave")).click()
    drawer = page.get_by_role("complementary", name="Source 1: Annual leave")
    marked = drawer.get_by_role("region", name="What the answer rests on")
    expect(marked).to_be_in_viewport()
    expect(marked).to_have_text(LEAVE)
    expect(drawer.get_by_text("Whom to ask.")).to_be_visible()
    expect(drawer.get_by_role("link", name="Open the original")).to_have_attribute(
        "href", "https://intranet.example/leave"
    )
    axe(page)
    fits(page)
    shot(page, f"chat-source-{width}-{theme}")
    page.keyboard.press("Escape")
    expect(drawer).to_have_count(0)
    expect(page.get_by_role("button", name=re.compile("Annual leave"))).to_be_focused()


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_two_answers_are_compared_by_keyboard(
    browse: Browse, page_database: Engine, width: Width
) -> None:
    page = browse("/", width)
    ask(page, two=True)
    expect(page.get_by_role("group", name="Two answers to compare")).to_be_focused()
    expect(page.get_by_role("region", name="Answer A")).not_to_contain_text("Version")
    axe(page)
    fits(page)
    shot(page, f"chat-comparison-{width}")
    page.keyboard.press("4")
    expect(page.locator(".vote-result")).to_contain_text("B is better")
    with session(page_database) as opened:
        row = opened.exec(select(Comparison).order_by(col(Comparison.created_at).desc())).first()
    assert row is not None
    assert (row.choice, row.strength, row.interface) == ("B", "slightly", row.interface)
    page.reload()
    expect(page.locator(".vote-result")).to_contain_text("B is better")


def test_thumbs_reasons_and_the_right_answer_are_kept(
    browse: Browse, page_database: Engine
) -> None:
    page = browse("/")
    ask(page)
    answer = page.get_by_role("region", name="Answer")
    answer.get_by_role("button", name="Bad answer").press("Enter")
    answer.get_by_label("Out of date").check()
    answer.get_by_label("Anything to add?").fill("It changed in May")
    axe(page)
    answer.get_by_role("button", name="Send", exact=True).click()
    expect(answer.get_by_role("button", name="Bad answer")).to_have_attribute(
        "aria-pressed", "true"
    )
    answer.get_by_role("button", name="The right answer is").click()
    answer.get_by_label("What is the right answer?").fill("28 days")
    axe(page)
    answer.get_by_role("button", name="Send the right answer").click()
    expect(answer.get_by_text("You proposed the right answer")).to_be_visible()
    page.reload()
    expect(answer.get_by_role("button", name="Bad answer")).to_have_attribute(
        "aria-pressed", "true"
    )
    answer.get_by_role("button", name="Bad answer").click()
    expect(answer.get_by_role("button", name="Bad answer")).to_have_attribute(
        "aria-pressed", "false"
    )
    with session(page_database) as opened:
        assert ("Out of date", "It changed in May") in opened.exec(
            select(Thumb.reason, Thumb.comment)
        ).all()
        assert "28 days" in opened.exec(select(GoldAnswer.answer)).all()


def test_regenerating_and_editing_make_branches_to_move_between(
    browse: Browse, page_database: Engine
) -> None:
    page = browse("/")
    ask(page, "First question")
    page.keyboard.press("Alt+r")
    branches = page.get_by_role("group", name="Branches of this question")
    expect(branches).to_contain_text("2/2")
    over(page)
    page.keyboard.press("Alt+e")
    editor = page.get_by_role("textbox", name="Your question, changed")
    expect(editor).to_be_focused()
    axe(page)
    editor.fill("First question, edited")
    editor.press("Enter")
    expect(branches).to_contain_text("3/3")
    over(page)
    ask(page, "It goes on")
    expect(page.locator(".turn")).to_have_count(2)
    page.keyboard.press("Alt+ArrowLeft")
    expect(branches).to_contain_text("2/3")
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.locator(".asked")).to_have_text("First question")
    page.reload()
    expect(branches).to_contain_text("2/3")
    branches.get_by_role("button", name="Later branch").click()
    expect(page.locator(".asked").last).to_have_text("It goes on")
    axe(page)
    with session(page_database) as opened:
        last = opened.exec(select(Turn).where(Turn.question == "It goes on")).one()
        parent = opened.get_one(Turn, last.parent_id)
    assert parent.question == "First question, edited"


def test_chats_are_found_renamed_pinned_and_deleted(browse: Browse) -> None:
    page = browse("/")
    ask(page, "Where is the lift?")
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_text("What would you like to know?")).to_be_visible()
    ask(page, "Where do bicycles go?")
    chats = page.get_by_role("complementary", name="Your chats")
    expect(chats.get_by_role("link")).to_have_count(2)
    page.keyboard.press("Alt+f")
    expect(page.get_by_role("searchbox", name="Search your chats")).to_be_focused()
    page.keyboard.type("lif")
    expect(chats.get_by_role("link")).to_have_count(1)
    axe(page)
    chats.get_by_role("link").press("Enter")
    expect(page.locator(".asked")).to_have_text("Where is the lift?")
    entry = chats.get_by_role("listitem").filter(has_text="Where is the lift?")
    entry.locator("summary").press("Enter")
    axe(page)
    entry.get_by_role("button", name="Rename").press("Enter")
    page.get_by_role("textbox", name="The chat's name").fill("Getting around")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Getting around")
    entry = chats.get_by_role("listitem").filter(has_text="Getting around")
    entry.locator("summary").click()
    entry.get_by_role("button", name="Pin").click()
    expect(chats.get_by_role("listitem").first).to_contain_text("Getting around")
    expect(entry).to_contain_text("pinned")
    shot(page, "chats")
    entry.locator("summary").click()
    entry.get_by_role("button", name="Delete").click()
    axe(page)
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(chats.get_by_role("link")).to_have_count(1)
    expect(page.get_by_text("What would you like to know?")).to_be_visible()


def test_a_phone_has_the_chats_in_a_drawer(browse: Browse) -> None:
    page = browse("/", "phone")
    ask(page, "Where is the lift?")
    opener = page.get_by_role("button", name="Chats", exact=True)
    chats = page.get_by_role("complementary", name="Your chats")
    expect(chats).to_be_hidden()
    opener.tap()
    expect(chats).to_be_visible()
    axe(page)
    fits(page)
    shot(page, "chats-phone")
    chats.get_by_role("link", name="Where is the lift?").tap()
    expect(chats).to_be_hidden()


def test_of_a_temporary_chat_nothing_stays(browse: Browse, page_database: Engine) -> None:
    page = browse("/")
    page.get_by_label("Temporary chat").check()
    expect(page.get_by_text("nothing of it is stored or trained on")).to_be_visible()
    ask(page, "A temporary question")
    axe(page)
    shot(page, "chat-temporary")
    expect(page.get_by_role("button", name="Bad answer")).to_have_count(0)
    page.reload()
    expect(page.locator(".asked")).to_have_text("A temporary question")
    ask(page, "Another one")
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_text("What would you like to know?")).to_be_visible()
    page.reload()
    expect(page.get_by_text("What would you like to know?")).to_be_visible()
    with session(page_database) as opened:
        asked = opened.exec(select(Turn.question)).all()
    assert "A temporary question" not in asked
    assert "Another one" not in asked


def test_a_question_without_a_source_says_so(browse: Browse) -> None:
    page = browse("/")
    ask(page, "Zebra quagga?")
    expect(page.get_by_text("No good source was found for this.")).to_be_visible()
    axe(page)


def test_a_verified_answer_stands_above_the_policys(browse: Browse) -> None:
    page = browse("/", theme="dark")
    ask(page, VERIFIED)
    verified = page.get_by_role("region", name="Verified answer")
    expect(verified).to_contain_text("Kim does.")
    expect(verified).to_contain_text("accepted by Robin")
    expect(page.get_by_role("region", name="Answer", exact=True)).to_be_hidden()
    page.get_by_text("What Heed itself would answer").click()
    expect(page.get_by_role("region", name="Answer", exact=True)).to_be_visible()
    axe(page)
    page.reload()
    expect(verified).to_contain_text("Kim does.")


def test_the_keys_are_listed(browse: Browse) -> None:
    page = browse("/")
    page.get_by_role("heading", level=1).focus()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(dialog).to_be_visible()
    axe(page)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_role("textbox", name="Ask a question")).to_be_focused()
    page.keyboard.type("what?")
    expect(dialog).to_have_count(0)


# What Alt writes on a Mac with these keys, or begins to write.
OF_A_MAC = [("€", "KeyE"), ("Dead", "KeyN"), ("ƒ", "KeyF"), ("ArrowLeft", "ArrowLeft")]


def acts(where: Locator, key: str, code: str) -> bool:
    """Whether the page takes Alt with this key for itself."""
    given = {"key": key, "code": code, "altKey": True, "bubbles": True, "cancelable": True}
    press = "(where, given) => !where.dispatchEvent(new KeyboardEvent('keydown', given))"
    taken: bool = where.evaluate(press, given)
    return taken


def test_signs_that_are_written_with_alt_are_no_shortcuts(browse: Browse) -> None:
    page = browse("/")
    box = page.get_by_role("textbox", name="Ask a question")
    box.fill("Two words")
    assert [acts(box, key, code) for key, code in OF_A_MAC] == [False] * 4
    assert acts(box, "e", "KeyE")
    assert acts(page.get_by_role("heading", level=1), "ArrowLeft", "ArrowLeft")


def test_a_chat_of_somebody_else_is_not_there(browse: Browse) -> None:
    owner = browse("/")
    ask(owner, "Mine alone")
    other = browse("/account", allowed=("404",))
    other.goto(owner.url)
    expect(other.get_by_role("alert")).to_contain_text("you have no conversation")
    axe(other)


def test_another_tab_shows_what_was_asked_here(browse: Browse) -> None:
    here = browse("/")
    ask(here, "First")
    there = browse(f"/{here.url.split('/', 3)[3]}", context=here.context)
    expect(there.locator(".turn")).to_have_count(1)
    ask(here, "Second")
    expect(there.locator(".turn")).to_have_count(2)
    expect(there.locator(".turn").last.get_by_role("button", name="Regenerate")).to_be_visible()


def test_a_refusal_keeps_the_question_and_can_be_asked_again(browse: Browse) -> None:
    page = browse("/", allowed=("503",))
    body = '{"title": "Busy", "status": 503, "detail": "Too many wait. Ask again in a moment."}'
    page.route(
        "**/api/ask",
        lambda route: route.fulfill(status=503, content_type="application/json", body=body),
        times=1,
    )
    page.get_by_role("textbox", name="Ask a question").fill("Am I heard?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Too many wait")
    axe(page)
    page.get_by_role("button", name="Ask again").click()
    over(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator(".asked")).to_have_text("Am I heard?")


def test_tables_and_code_are_shown_and_code_is_copied(
    browse: Browse, page_database: Engine
) -> None:
    page = browse("/")
    ask(page, "Show me a table")
    text = "| a | b |\n|---|---|\n| 1 | 2 |\n\n```\nheed serve\n```\n\nSee [1] <script>x</script>"
    with session(page_database) as opened:
        turn = opened.exec(select(Turn).where(Turn.question == "Show me a table")).one()
        old = opened.exec(select(Candidate).where(Candidate.turn_id == turn.id)).one()
        copy = Candidate(**{**old.model_dump(exclude={"id", "turn_id"}), "text": text}, turn_id="")
        passage = opened.exec(select(Passage).where(Passage.text == LEAVE)).one()
        shown = Turn(
            conversation_id=turn.conversation_id,
            position=1,
            parent_id=turn.id,
            question="Table",
            prompt={"passages": [{"id": passage.id, "title": "Annual leave", "text": LEAVE}]},
        )
        opened.add(shown)
        opened.flush()
        copy.turn_id = shown.id
        opened.add(copy)
        conversation = turn.conversation_id
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(page.url.replace(conversation, conversation) + f"?turn={shown.id}")
    answer = page.locator(".turn").last
    expect(answer.get_by_role("table")).to_contain_text("2")
    expect(answer.get_by_text("<script>x</script>")).to_be_visible()
    answer.get_by_role("button", name="Copy").click()
    expect(answer.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "heed serve\n"
    axe(page)
    answer.get_by_role("button", name="Source 1: Annual leave").click()
    expect(page.get_by_role("complementary", name="Source 1: Annual leave")).to_be_visible()
    # As over plain HTTP.
    page.add_init_script(
        "Object.defineProperty(Navigator.prototype, 'clipboard', { value: undefined })"
    )
    page.reload()
    expect(answer.get_by_text("heed serve")).to_be_visible()
    expect(answer.get_by_role("button", name="Copy")).to_have_count(0)
