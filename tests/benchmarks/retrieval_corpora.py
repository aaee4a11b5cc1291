"""Questions with the one section each is answered by: a handbook, and pages of public bodies.

A handbook's section is what stands under one heading. Headings that are questions are left
out of it, so that no question finds itself by its own words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*\s*")


@dataclass(frozen=True, slots=True)
class Section:
    """A text under a heading of a page; `heading` is "" where it is left out."""

    id: str
    title: str
    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Sections, and questions with the id of the section that answers each."""

    name: str
    sections: tuple[Section, ...]
    questions: tuple[tuple[str, str], ...]


def handbook(folder: Path) -> Corpus:
    """A folder with `faq.jsonl` (question, doc, page_title) and the pages it names."""
    asked = {(row["doc"], _plain(row["question"])): row for row in _rows(folder / "faq.jsonl")}
    titles = {row["doc"]: row["page_title"] for row in asked.values()}
    sections: list[Section] = []
    gold: dict[str, str] = {}
    for page in sorted((folder / "docs").rglob("*.md")):
        name = page.relative_to(folder).as_posix()
        title, body = _front_matter(page.read_text(encoding="utf-8"))
        for at, (heading, text) in enumerate(_cut(body)):
            number, row = f"{name}#{at}", asked.get((name, _plain(heading)))
            if row is not None:
                gold.setdefault(row["id"], number)
            if text.strip():
                shown = "" if row else heading
                sections.append(Section(number, titles.get(name, title), shown, text))
    questions = [(row["question"], gold[row["id"]]) for row in asked.values() if row["id"] in gold]
    return Corpus(folder.name, tuple(sections), tuple(questions))


def feedback_qa(folder: Path) -> Corpus:
    """A folder with `passages.jsonl` and `questions.jsonl` (gold_passage_id)."""
    sections = tuple(
        Section(row["passage_id"], row["page_title"], " ".join(row["section_headers"]), row["text"])
        for row in _rows(folder / "passages.jsonl")
    )
    asked = [(row["question"], row["gold_passage_id"]) for row in _rows(folder / "questions.jsonl")]
    return Corpus(folder.parent.name, sections, tuple(asked))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def _front_matter(text: str) -> tuple[str, str]:
    if not text.startswith("---\n") or "\n---" not in text[3:]:
        return "", text
    head, _mark, body = text[4:].partition("\n---")
    title = re.search(r"^title:\s*(.+)$", head, re.MULTILINE)
    return (title.group(1).strip("\"' ") if title else ""), body


def _cut(body: str) -> Iterator[tuple[str, str]]:
    heading, lines, fenced = "", list[str](), False
    for line in body.splitlines():
        fenced ^= line.lstrip().startswith("```")
        found = None if fenced else _HEADING.fullmatch(line)
        if found is None:
            lines.append(line)
            continue
        yield heading, "\n".join(lines)
        heading, lines = found.group(2), []
    yield heading, "\n".join(lines)


def _plain(text: str) -> str:
    linked = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(re.findall(r"\w+", re.sub(r"\{[^}]*\}", "", linked).casefold()))
