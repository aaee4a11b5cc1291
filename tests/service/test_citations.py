"""Sources: numbered, with their documents, opened at their place by whoever may read them."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine
from sqlmodel import Session

from service.citations import AROUND, cited, place_of, web_address
from service.database import session
from service.errors import NotFoundError
from service.retrieval import content_words, retrieve
from service.section_words import held
from service.tables import DataSource, Document, Passage


def document(opened: Session, passages: int, **over: object) -> list[Passage]:
    source = DataSource(name=f"s{over.get('title')}", plugin="markdown_folder")
    opened.add(source)
    opened.flush()
    values = {
        "source_id": source.id,
        "external_id": "leave.md",
        "title": "Leave",
        "text": "",
        "readers": ["everyone"],
        "content_hash": "1",
        "url": "https://intranet.example/leave",
    }
    row = Document(**{**values, **over})
    opened.add(row)
    opened.flush()
    rows = [
        Passage(document_id=row.id, position=at, heading="How much", text=f"Part {at} of leave.")
        for at in range(passages)
    ]
    opened.add_all(rows)
    opened.flush()
    return rows


def prompt(row: Passage) -> dict[str, str]:
    return {"id": row.id, "title": "Leave: How much", "text": row.text}


def test_passages_are_numbered_with_document_heading_and_address(engine: Engine) -> None:
    with session(engine) as opened:
        first, second = document(opened, 2)
        shown = cited(opened, {"t": [prompt(second), prompt(first)]})["t"]
    assert [(item.number, item.title, item.heading) for item in shown] == [
        (1, "Leave", "How much"),
        (2, "Leave", "How much"),
    ]
    assert {item.url for item in shown} == {"https://intranet.example/leave"}
    assert shown[0].document_id == second.document_id


def test_of_a_passage_that_is_gone_or_closed_only_the_prompt_is_told(engine: Engine) -> None:
    with session(engine) as opened:
        [closed] = document(opened, 1, readers=["board"])
        rows = [prompt(closed), {"id": "gone", "title": "Old", "text": "It was so."}]
        shown = cited(opened, {"t": rows})["t"]
    assert [(item.title, item.document_id, item.url) for item in shown] == [
        ("Leave: How much", None, None),
        ("Old", None, None),
    ]


def test_a_passage_opens_with_the_text_around_it(engine: Engine) -> None:
    with session(engine) as opened:
        rows = document(opened, 40)
        place = place_of(opened, rows[20].id)
        start, end = place_of(opened, rows[0].id), place_of(opened, rows[39].id)
    assert [part.text for part in place.passages if part.asked_for] == ["Part 20 of leave."]
    assert len(place.passages) == 2 * AROUND + 1
    assert place.passages[0].text == f"Part {20 - AROUND} of leave."
    assert (place.more_before, place.more_after) == (True, True)
    assert (start.more_before, start.more_after) == (False, True)
    assert (end.more_before, end.more_after) == (True, False)
    assert end.passages[-1].asked_for


def test_a_document_for_others_is_not_opened(engine: Engine) -> None:
    with session(engine) as opened:
        [closed] = document(opened, 1, readers=["board"])
        for number in (closed.id, "none"):
            with pytest.raises(NotFoundError, match="no longer there"):
                place_of(opened, number)
        assert place_of(opened, closed.id, ["board"]).title == "Leave"


@pytest.mark.parametrize(
    "url", [None, "", "javascript:alert(1)", "file:///etc/passwd", "http://[", "notes/leave.md"]
)
def test_only_a_web_address_becomes_a_link(url: str | None) -> None:
    assert web_address(url) is None


def test_a_passage_that_holds_too_little_of_the_question_is_no_source(engine: Engine) -> None:
    question = "How many days of leave do astronauts get on the moon?"
    with session(engine) as opened:
        row = document(opened, 1)[0]
        document(opened, 3, title="Travel")
        share = held(opened, content_words(question), [row.id])[row.id]
        assert 0 < share < 0.5
        assert retrieve(opened, question, 1, source_bar=share - 0.01)
        assert retrieve(opened, question, 1, source_bar=share + 0.01) == []
        assert held(opened, content_words("part of leave"), [row.id])[row.id] == pytest.approx(1)
