"""markdown_folder makes readable documents and gold pairs of pages as people write them."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from plugins.contract import (
    Complete,
    Document,
    GoldPair,
    Item,
    OptionsError,
    Rejected,
    SourceError,
)
from plugins.markdown_folder import MarkdownFolder
from service.plugin_fields import checked

HANDBOOKS = Path(__file__).parents[2].parent / "shared" / "data"


def made(options: dict[str, Any]) -> MarkdownFolder:
    return MarkdownFolder(checked(MarkdownFolder.Settings, options))


def read(folder: Path, **options: Any) -> list[Item]:
    return list(made({"path": str(folder), **options}).items({}))


def read_one(folder: Path, source: str | bytes, name: str = "page.md") -> list[Item]:
    page = folder / name
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_bytes(source.encode() if isinstance(source, str) else source)
    return read(folder)


def document(folder: Path, source: str | bytes, name: str = "page.md") -> Document:
    found = read_one(folder, source, name)[0]
    assert isinstance(found, Document)
    return found


def pairs(items: list[Item]) -> list[GoldPair]:
    return [item for item in items if isinstance(item, GoldPair)]


def test_a_page_becomes_a_document_named_by_its_path(tmp_path: Path) -> None:
    items = read_one(
        tmp_path, "---\ntitle: Annual leave\nupdated: 2026-02-01\n---\nTake it.\n", "hr/leave.md"
    )
    assert items == [
        Document(
            "hr/leave.md", "Annual leave", "Take it.", updated=datetime(2026, 2, 1, tzinfo=UTC)
        ),
        Complete(),
    ]


@pytest.mark.parametrize(
    ("source", "title"),
    [
        (
            "---\ntitle: '  From the\n  front matter '\n---\n# Heading\ntext",
            "From the front matter",
        ),
        ("---\ntitle: 2024\n---\ntext", "2024"),
        ("---\ntitle: [a, b]\n---\n# Heading\ntext", "Heading"),
        ("---\ntitle: 'never closed\n---\n## **Bold** [heading](x)\ntext", "Bold heading"),
        ("---\r\ntitle: Carriage\r\n---\r\ntext", "Carriage"),
        ("text only", "travel and leave"),
    ],
)
def test_the_title_is_that_of_the_front_matter_else_heading_else_file(
    tmp_path: Path, source: str, title: str
) -> None:
    found = document(tmp_path, source, "travel-and_leave.md")
    assert found.title == title
    assert "---" not in found.text


def test_headings_stay_as_lines_and_lists_and_tables_stay_readable(tmp_path: Path) -> None:
    text = document(
        tmp_path,
        "# Travel {#top}\n\nBook a [train](https://rail.example) or _fly_\nwith `care`.\n\n"
        "Rules\n-----\n\n1. First\n2. Second\n   * inner\n\n   and more\n\n"
        "| City | Limit |\n|---|---|\n| Pune | **40** |\n\n> quoted\n\n---\n\n"
        "```sh\n# no heading\n{{ kept }}\n```\n\nWrite to <mailto:help@firm.example>.\n",
    ).text
    assert text == (
        "# Travel\n\nBook a train or fly with care.\n\n## Rules\n\n"
        "1. First\n2. Second\n   - inner\n   and more\n\n"
        "City | Limit\nPune | 40\n\nquoted\n\n    # no heading\n    {{ kept }}\n\n"
        "Write to help@firm.example."
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("See [leave]({% page '/hr/leave' %}) now.", "See leave now."),
        ("See [leave]({% page '/hr/leave' %}#top) now.", "See leave now."),
        ("Ask in {% slack_channel 'people' %}.", "Ask in people."),
        ("A\n{% image 'img/a.png' 'alt' %}\nB", "A\n\nB"),
        ("{% alert %}\nMind the gap.\n{% endalert %}", "Mind the gap."),
        ("Hello {{ site.name }}!", "Hello !"),
        ("A{# a note #}B", "AB"),
        ("A<!-- hidden\n\nstill hidden -->B", "AB"),
        ("A {% comment %}hidden\n\ntoo{% endcomment %}B", "A B"),
        ("A\n\n<!-- never closed\n\nB", "A"),
        ("50 % {of} 100 %} is {% half", "50 % {of} 100 %} is {% half"),
        ("A<br>B <b>C</b> ![alt](x.png)", "A\nB C"),
        ("a\0b", "a\ufffdb"),
        (
            "<table><tr><td>City</td><td>Pune</td></tr></table>\n<script>run()</script>",
            "City | Pune",
        ),
        (
            "<details><summary>More</summary>See [x](y) **now** &amp; then</details>",
            "More\nSee x now & then",
        ),
        ("Fine.\n\n      <td>\n        cell\n      </td>", "Fine.\n\ncell"),
    ],
)
def test_tags_comments_and_html_leave_only_what_a_reader_sees(
    tmp_path: Path, source: str, text: str
) -> None:
    assert document(tmp_path, source).text == text


def test_a_question_heading_with_an_answer_is_a_gold_pair(tmp_path: Path) -> None:
    items = read_one(
        tmp_path,
        "# IT\n\n## 1. How do I get **a laptop**\\*?\n\nAsk [the desk](https://desk.example):\n\n"
        "* bring a badge\n* sign the form\n\n### Abroad\n\nWrite to them.\n\n## Next\n\nOther.\n",
        "it.md",
    )
    assert pairs(items) == [
        GoldPair(
            "it.md#how-do-i-get-a-laptop",
            "How do I get a laptop?",
            "Ask the desk:\n\n- bring a badge\n- sign the form\n\nAbroad\n\nWrite to them.",
        )
    ]


EIGHT_WORDS = "one two three four five six seven eight"


@pytest.mark.parametrize(
    ("heading", "answer"),
    [
        ("Questions?", EIGHT_WORDS),
        ("Still have questions?", EIGHT_WORDS),
        ("Do you have any other questions or feedback?", EIGHT_WORDS),
        ("Need more help?", EIGHT_WORDS),
        ("Really now?", EIGHT_WORDS),
        ("How it is done", EIGHT_WORDS),
        ("How is it done?", "one two three four five six seven"),
        ("How is it done?", "word " * 251),
    ],
)
def test_other_headings_are_no_gold_pairs(tmp_path: Path, heading: str, answer: str) -> None:
    assert pairs(read_one(tmp_path, f"## {heading}\n\n{answer}\n")) == []


@pytest.mark.parametrize("words", [8, 250])
def test_the_bounds_of_an_answers_length_are_inside(tmp_path: Path, words: int) -> None:
    assert len(pairs(read_one(tmp_path, f"## How is it done?\n\n{'word ' * words}\n"))) == 1


def test_the_same_question_twice_on_a_page_keeps_two_ids(tmp_path: Path) -> None:
    section = f"## How is it done?\n\n{EIGHT_WORDS}\n\n"
    ids = [pair.id for pair in pairs(read_one(tmp_path, section * 2))]
    assert ids == ["page.md#how-is-it-done", "page.md#how-is-it-done-2"]


def test_questions_can_be_turned_off(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"## How is it done?\n\n{EIGHT_WORDS}\n")
    assert [type(item) for item in read(tmp_path, questions=False)] == [Document, Complete]


def test_pages_that_cannot_be_used_are_rejected_and_the_others_go_on(tmp_path: Path) -> None:
    outside = tmp_path / "outside.md"
    outside.write_text("secret")
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a-latin.md").write_bytes("Café".encode("latin-1"))
    (folder / "b-empty.md").write_text("---\ntitle: Empty\n---\n<!-- nothing -->\n")
    (folder / "c-large.md").write_text("x" * 2_000_001)
    (folder / "d-link.md").symlink_to(outside)
    Path(os.fsdecode(os.fsencode(folder) + b"/e-\xe9.md")).write_text("odd name")
    (folder / "f-folder.md").mkdir()
    (folder / "g-good.md").write_text("Fine.")
    (folder / ".hidden.md").write_text("hidden")
    items = read(folder)
    told = {item.where: item.reason for item in items if isinstance(item, Rejected)}
    assert told == {
        "a-latin.md": "is not UTF-8: byte 3 is 0xe9; save it as UTF-8",
        "b-empty.md": "has no text",
        "c-large.md": "has 2000001 bytes; at most 2000000 are read, split the page",
        "d-link.md": "is a link that leads out of the folder; not followed",
        "e-\\udce9.md": "has a file name that is not UTF-8; rename it",
    }
    assert [item.id for item in items if isinstance(item, Document)] == ["g-good.md"]
    assert items[-1] == Complete()


@pytest.mark.parametrize("pattern", ["**/*.md", "*/*.md"])
def test_a_linked_folder_outside_is_not_read(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.md").write_text("secret")
    (tmp_path / "docs" / "hr").mkdir(parents=True)
    (tmp_path / "docs" / "hr" / "page.md").write_text("Fine.")
    (tmp_path / "docs" / "link").symlink_to(tmp_path / "elsewhere")
    items = read(tmp_path / "docs", pattern=pattern)
    assert [item.id for item in items if isinstance(item, Document)] == ["hr/page.md"]


def test_an_empty_folder_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no file that matches '\*\*/\*\.md'"):
        read(tmp_path)


def test_a_folder_without_a_usable_page_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"nothing was changed; the first of them: page.md is not UTF-8"
    ):
        read_one(tmp_path, b"\xff\xfe")


def test_a_missing_folder_or_a_file_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        read(tmp_path / "missing")
    (tmp_path / "page.md").write_text("x")
    with pytest.raises(SourceError, match="is no folder"):
        read(tmp_path / "page.md")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "option path is missing: The folder"),
        ({"path": "docs", "questions": "maybe"}, "option questions is 'maybe'"),
        ({"path": "docs", "pattern": "../*.md"}, "option pattern is '../*.md'"),
        ({"path": "docs", "pattern": "/etc/*"}, "option pattern is '/etc/*'"),
        ({"path": "docs", "pattern": ""}, "option pattern is ''"),
        ({"path": "docs", "pattern": "a**/b.md"}, "option pattern is"),
        ({"path": "docs", "patterns": "*"}, "option 'patterns' is unknown"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionsError) as caught:
        made(options)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "pages", "recall"),
    [
        ("handbook-18f", 238, 0.98),
        ("handbook-civicactions", 158, 0.98),
        ("handbook-clef", 39, None),
    ],
)
def test_real_handbooks_are_read_whole(name: str, pages: int, recall: float | None) -> None:
    folder = HANDBOOKS / name
    if not folder.is_dir():
        pytest.skip(f"needs the real handbook {name} in shared/data beside the repository")
    items = read(folder / "docs")
    documents = [item for item in items if isinstance(item, Document)]
    assert len(documents) == pages
    assert not [item for item in items if isinstance(item, Rejected)]
    assert len({item.id for item in documents + pairs(items)}) == len(documents + pairs(items))
    if recall is not None:
        wanted = _questions_of(folder)
        found = {(pair.id.split("#")[0], _words(pair.question)) for pair in pairs(items)}
        assert len(wanted & found) / len(wanted) >= recall
        assert len(found - wanted) <= 0.05 * len(wanted)


def _questions_of(folder: Path) -> set[tuple[str, str]]:
    rows = map(json.loads, (folder / "faq.jsonl").read_text().splitlines())
    return {(row["doc"].removeprefix("docs/"), _words(row["question"])) for row in rows}


def _words(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()
