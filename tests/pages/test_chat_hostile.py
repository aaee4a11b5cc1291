"""Strings made to break pages, shown as titles, questions, answers and passages in Chromium.

None runs a script, opens a dialog, leaves the origin or takes the page's own look.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import Engine
from sqlmodel import Session

from service.database import session
from service.policies import live_version
from service.tables import (
    Candidate,
    Conversation,
    DataSource,
    Document,
    Passage,
    Turn,
)
from service.wording import storable
from tests.journeys.server import Served
from tests.pages.conftest import Browse, fits

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "hostile-strings"
A_CONVERSATION = 80
A_DOCUMENT = 25

# What stands on a page without any of these strings.
OWN = "script[src='/static/frame/app.js'], script[src='/static/frame/theme.js']"


@pytest.fixture(scope="module")
def strings() -> list[str]:
    """Every string that the service would keep."""
    if not FOLDER.is_dir():
        pytest.skip(f"{FOLDER} is not here: the hostile strings come with the developers' data")
    found = json.loads((FOLDER / "blns.json").read_text(encoding="utf-8"))
    vectors = (FOLDER / "html-sanitiser-vectors.jsonl").read_text(encoding="utf-8")
    found += [json.loads(line)["payload"] for line in vectors.split("\n") if line]
    # As markup in Markdown, too: there HTML is one way in of several.
    found += [f"[x]({text})" for text in found if ":" in text and "\n" not in text]
    return [text for text in found if text.strip() and storable(text)]


def batches(rows: list[str], size: int) -> list[list[str]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def talk(opened: Session, person_id: str, title: str, texts: list[str]) -> str:
    """A conversation with each text as a question, an answer, and a source of it."""
    version = live_version(opened).id
    row = Conversation(person_id=person_id, title=title)
    opened.add(row)
    opened.flush()
    parent = None
    for at, text in enumerate(texts):
        turn = Turn(
            conversation_id=row.id,
            position=at,
            question=text,
            parent_id=parent,
            prompt={"passages": [{"id": f"gone-{at}", "title": text, "text": text}]},
        )
        opened.add(turn)
        opened.flush()
        opened.add(
            Candidate(turn_id=turn.id, version_id=version, text=text, finish_reason="stop", seed=1)
        )
        parent = turn.id
    return row.id


def documents(opened: Session, person_id: str, strings: list[str]) -> str:
    """A conversation whose sources stand in documents of such strings."""
    source = DataSource(name="hostile", plugin="markdown_folder")
    opened.add(source)
    conversation = Conversation(person_id=person_id, title="Documents")
    opened.add(conversation)
    opened.flush()
    parent = None
    for at, texts in enumerate(batches(strings, A_DOCUMENT)):
        document = Document(
            source_id=source.id,
            external_id=str(at),
            title=texts[0],
            text="",
            url=texts[-1],
            readers=["everyone"],
            content_hash="1",
        )
        opened.add(document)
        opened.flush()
        passages = [
            Passage(document_id=document.id, position=place, heading=text, text=text)
            for place, text in enumerate(texts)
        ]
        opened.add_all(passages)
        opened.flush()
        middle = passages[len(passages) // 2]
        turn = Turn(
            conversation_id=conversation.id,
            position=at,
            question=f"Document {at}",
            parent_id=parent,
            prompt={"passages": [{"id": middle.id, "title": "t", "text": middle.text}]},
        )
        opened.add(turn)
        opened.flush()
        parent = turn.id
    return conversation.id


def is_untouched(page: Page) -> None:
    """Nothing of the strings became a part of the page that acts or loads."""
    acts = (
        "iframe, object, embed, form[action], img, svg, math, style, base, meta[http-equiv], link"
    )
    inside = page.locator(".chat").locator(acts)
    assert inside.count() == 0, inside.first.evaluate("element => element.outerHTML")
    assert page.locator("script").count() == page.locator(OWN).count()
    handlers = """[...document.querySelectorAll('.chat *')].filter((element) =>
        [...element.attributes].some(({name}) => name.startsWith('on') || name === 'style'))
        .map((element) => element.outerHTML)"""
    assert page.evaluate(handlers) == []
    links = page.locator(".markdown a[href], .drawer a[href]").evaluate_all(
        "links => links.map((link) => [link.protocol, link.rel])"
    )
    for protocol, rel in links:
        assert protocol in ("http:", "https:", "mailto:")
        assert "noopener" in rel
    assert page.evaluate("Object.keys(window).filter((name) => /xss|pwn/i.test(name))") == []
    fits(page)


def test_no_string_runs_or_loads_anything(
    browse: Browse, site: Served, page_database: Engine, strings: list[str]
) -> None:
    # The source of a passage that is gone is asked for, and is not there.
    page = browse("/account", "phone", allowed=("404 (Not Found)",))
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    me = page.evaluate("fetch('/api/me').then((answer) => answer.json())")["id"]
    with session(page_database) as opened:
        talks = [
            (talk(opened, me, texts[0], texts), texts) for texts in batches(strings, A_CONVERSATION)
        ]
        sources = documents(opened, me, strings)
        for text in strings:
            opened.add(Conversation(person_id=me, title=text, simulated=True))
    for conversation, texts in talks:
        page.goto(f"{site.url}/chat/{conversation}")
        expect(page.locator(".turn")).to_have_count(len(texts))
        expect(page.locator(".answer .markdown")).to_have_count(len(texts))
        assert page.locator(".asked").all_text_contents() == texts
        is_untouched(page)

    page.set_viewport_size({"width": 1280, "height": 860})
    page.goto(f"{site.url}/chat/{talks[0][0]}")
    expect(page.locator(".turn")).to_have_count(len(talks[0][1]))
    page.locator(".source").first.click()
    expect(page.get_by_text("was changed, removed or closed to you")).to_be_visible()
    is_untouched(page)

    page.goto(f"{site.url}/chat/{sources}")
    count = len(batches(strings, A_DOCUMENT))
    expect(page.locator(".source")).to_have_count(count)
    for at in range(count):
        page.locator(".source").nth(at).click()
        expect(page.locator(".drawer .marked")).to_have_count(1)
        is_untouched(page)

    listed = page.locator(".chat-title")
    more = page.get_by_role("button", name="Show more")
    while more.count():
        before = listed.count()
        more.click()
        expect(listed).not_to_have_count(before)
    assert set(listed.all_text_contents()) >= set(strings)
    is_untouched(page)
    assert dialogs == []
