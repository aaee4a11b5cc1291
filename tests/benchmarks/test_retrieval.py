"""The benchmark of retrieval, on a handbook of two pages, with figures worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.retrieval import _spread, calibrated, measured, show, show_bars
from tests.benchmarks.retrieval_corpora import Corpus, feedback_qa, handbook
from tests.tiny_meaning import tiny_meaning

LEAVE = """---
title: Leave
---
About leave.

## How many days of leave do I get?

You get 25 days.

## Sick leave

Call your lead. Parental leave is elsewhere.
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "leave.md").write_text(LEAVE)
    (docs / "pay.md").write_text("---\ntitle: Pay\n---\n## Days\n\nPay comes on the last day.\n")
    row = {
        "id": "q", "question": "How many days of leave do I get?", "doc": "docs/leave.md",
        "page_title": "Leave",
    }  # fmt: skip
    (tmp_path / "faq.jsonl").write_text(json.dumps(row))
    return handbook(tmp_path)


def test_a_question_is_no_heading_of_its_section(corpus: Corpus) -> None:
    assert corpus.questions == (("How many days of leave do I get?", "docs/leave.md#1"),)
    [asked] = [one for one in corpus.sections if one.id == "docs/leave.md#1"]
    assert (asked.title, asked.heading, asked.text.strip()) == ("Leave", "", "You get 25 days.")
    assert [one.heading for one in corpus.sections] == ["", "", "Sick leave", "Days"]


def test_each_way_of_finding_has_a_row(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = measured(corpus, tmp_path, None)
    assert [row.name for row in rows] == ["plain BM25", "full text"]
    assert all(row.recall[1] == 1 for row in rows)
    show(corpus, rows)
    assert "1 questions, 4 sections" in capsys.readouterr().out


def test_an_embedding_model_adds_two_rows(corpus: Corpus, tmp_path: Path) -> None:
    rows = measured(corpus, tmp_path, tiny_meaning(tmp_path / "model"))
    assert [row.name for row in rows[2:]] == ["embeddings", "full text and embeddings"]
    assert all(row.recall[5] == 1 for row in rows)


def test_a_bar_is_judged_by_own_and_others_questions(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(corpus, name="other", questions=(("What is the wage of a zebra?", "x"),))
    for one in (corpus, other):
        measured(one, tmp_path, None)
    bars = calibrated((corpus, other), tmp_path, None)
    assert {bar.kind for bar in bars} == {"words held"}
    # Both corpora hold the pages, so that half of "own" is the question nobody can answer.
    assert (bars[0].own, bars[0].others) == (0.5, 0.5)
    show_bars(bars)
    assert "words held" in capsys.readouterr().out


def test_the_other_form_of_questions_is_read(tmp_path: Path) -> None:
    passage = {"passage_id": "p", "page_title": "T", "section_headers": ["A", "B"], "text": "x"}
    (tmp_path / "passages.jsonl").write_text(json.dumps(passage))
    (tmp_path / "questions.jsonl").write_text(
        json.dumps({"question": "Why?", "gold_passage_id": "p"})
    )
    found = feedback_qa(tmp_path)
    assert found.sections[0].heading == "A B"
    assert found.questions == (("Why?", "p"),)


def test_some_questions_are_taken_at_even_distances() -> None:
    asked = tuple((str(n), "") for n in range(10))
    assert [question for question, _gold in _spread(asked, 3)] == ["0", "3", "6"]
    assert _spread(asked, 0) == _spread(asked, 99) == asked
