"""What a Markdown page brings: a document, and a gold pair for each heading that asks and is
answered shortly under it. Turning Markdown into text is markdown_text.py's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import Any

from plugins.contract import Document, GoldPair, Rejected
from plugins.markdown_text import Page, Section, read_page

SHORTEST_ANSWER_WORDS = 8
LONGEST_ANSWER_WORDS = 250
SHORTEST_QUESTION_WORDS = 3

# "Questions?", "Still have questions?", "Need more help?": an invitation, no question of a reader.
_INVITATION = re.compile(
    r"(?:do |you |got |have |any |still |more |other |further |need |want )*"
    r"(?:questions?|help|support|feedback|comments?|suggestions?|information)"
    r"(?:,? (?:or |and )?(?:questions?|help|support|feedback|comments?|concerns?|suggestions?))*\?",
    re.IGNORECASE,
)
_ANSWER_MARK = re.compile(r"^A(?:nswer)?[:.]\s+")
_NUMBERING = re.compile(r"^(?:\d+(?:\.\d+)*[.):]?|Q\d*[.:)])\s+")


def page_items(
    where: str, source: str, questions: bool, url: str | None = None
) -> Iterator[Document | GoldPair | Rejected]:
    """The document of a page and, with `questions`, its gold pairs; Rejected where it has no text.
    `where` is the page's path, and so its id."""
    page = read_page(source)
    if not any(section.text for section in page.sections):
        yield Rejected(where, "has no text")
        return
    updated = _updated(page.front_matter)
    yield Document(where, _title(page, where), page.text, url=url, updated=updated)
    if questions:
        yield from _gold_pairs(where, page.sections, updated)


def _title(page: Page, where: str) -> str:
    named = page.front_matter.get("title")
    if isinstance(named, str | int | float) and str(named).strip():
        return " ".join(str(named).split())
    headed = next((section.heading for section in page.sections if section.heading), "")
    return headed or re.sub(r"[-_]+", " ", PurePosixPath(where).stem)


def _updated(front_matter: dict[str, Any]) -> datetime | None:
    """The page's own date at `updated` or `date`; a file's time says when it was copied."""
    value = front_matter.get("updated", front_matter.get("date"))
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return None


def _gold_pairs(
    where: str, sections: tuple[Section, ...], updated: datetime | None
) -> Iterator[GoldPair]:
    taken: dict[str, int] = {}
    for position, section in enumerate(sections):
        question = _question(section.heading)
        answer = _answer(sections, position)
        if question and SHORTEST_ANSWER_WORDS <= len(answer.split()) <= LONGEST_ANSWER_WORDS:
            slug = re.sub(r"[\W_]+", "-", question.casefold()).strip("-")[:80]
            taken[slug] = taken.get(slug, 0) + 1
            count = f"-{taken[slug]}" if taken[slug] > 1 else ""
            yield GoldPair(f"{where}#{slug}{count}", question, answer, updated=updated)


def _question(heading: str) -> str | None:
    """The heading as a question, without numbering and footnote marks; None if it is none."""
    question = re.sub(r"[*†‡]+\?$", "?", _NUMBERING.sub("", heading))
    if not question.endswith("?") or len(question.split()) < SHORTEST_QUESTION_WORDS:
        return None
    return None if _INVITATION.fullmatch(question) else question


def _answer(sections: tuple[Section, ...], position: int) -> str:
    """The text under a heading, with that of the headings below it."""
    first = sections[position]
    parts = [first.text]
    for section in sections[position + 1 :]:
        if section.level <= first.level:
            break
        parts += [section.heading, section.text]
    return _ANSWER_MARK.sub("", "\n\n".join(part for part in parts if part))
