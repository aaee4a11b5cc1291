"""Passages follow the headings, keep sentences whole, and are never too long."""

from __future__ import annotations

import pytest

from service.passages import LONGEST_WORDS, cut


def test_each_heading_has_its_own_passages() -> None:
    text = "Intro line.\n\n# Leave\n\n25 days.\n\n## Parents\nMore days.\nFor both.\n### Empty\n"
    assert cut(text, "Handbook") == [
        ("", "Intro line."),
        ("Leave", "25 days."),
        ("Parents", "More days. For both."),
    ]


def test_a_heading_that_repeats_the_title_is_left_out() -> None:
    assert cut("# LEAVE #\n25 days.", "Leave") == [("", "25 days.")]


def test_a_hash_in_code_is_no_heading() -> None:
    text = "## Setup\n```\n# install\nmake\n```\nDone."
    assert [heading for heading, _text in cut(text, "")] == ["Setup"]


def test_a_long_section_is_cut_between_sentences_into_even_parts() -> None:
    sentences = [
        f"Sentence number {n} of this long section has exactly ten words." for n in range(20)
    ]
    passages = [text for _heading, text in cut("# Long\n" + " ".join(sentences), "")]
    assert len(passages) == 3
    assert " ".join(passages).split() == " ".join(sentences).split()
    assert all(text.endswith("words.") for text in passages)
    sizes = [len(text.split()) for text in passages]
    assert max(sizes) <= LONGEST_WORDS
    assert min(sizes) >= 40


def test_lists_and_paragraphs_keep_their_lines() -> None:
    text = "Bring:\n- a badge\n- your laptop\n  and its charger\n\nThen sit down."
    assert cut(text, "") == [
        ("", "Bring:\n- a badge\n- your laptop and its charger\n\nThen sit down.")
    ]


@pytest.mark.parametrize(
    "text",
    [
        "word " * 1_000,
        "x" * 50_000,
        "休暇は二十五日です。" * 500,
        "- item with some words\n" * 300,
        "| a | b |\n" * 300,
        "a. " * 2_000,
    ],
)
def test_no_passage_is_too_long_and_nothing_is_lost(text: str) -> None:
    passages = [body for _heading, body in cut(text, "")]
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert max(len(body.split()) for body in passages) <= LONGEST_WORDS
    assert max(len(body) for body in passages) <= LONGEST_WORDS * 12 + 200


@pytest.mark.parametrize("text", ["", " \n \n", "# Only a heading", "```", "\x0c", "#" * 5_000])
def test_odd_texts_are_cut_without_error(text: str) -> None:
    assert all(body.strip() for _heading, body in cut(text, "title"))
