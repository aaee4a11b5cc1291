"""The feedback leaves as TRL reads it, whole or not at all, without the exam."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from plugins.contract import Complete, GoldPair
from service.database import session
from service.errors import InvalidInputError
from service.export import export_feedback
from service.feedback import record_comparison, record_thumb
from tests.service.conversations import make_talk
from tests.service.sources import Shelf, store


def exported(engine: Engine, kind: str, path: Path) -> list[dict[str, Any]]:
    with session(engine) as opened:
        count = export_feedback(opened, kind, path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == count
    return rows


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_comparisons_with_a_winner_are_preferences(engine: Engine, tmp_path: Path) -> None:
    won, tied = make_talk(engine, kind="simulated"), make_talk(engine)
    with session(engine) as opened:
        record_comparison(opened, won.person, won.turn, "B", "slightly")
        record_comparison(opened, tied.person, tied.turn, "tie")
    [row] = exported(engine, "preference", tmp_path / "preference.jsonl")
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert row["prompt"][-1]["content"] == (
        "[Leave]\nEverybody has 25 days.\n\nHow many days of leave are there?"
    )
    assert (row["chosen"], row["rejected"]) == (
        said("Ask somebody else."),
        said("There are 25."),
    )
    assert (row["strength"], row["simulated"]) == ("slightly", True)


def test_thumbs_and_bad_pairs_are_unpaired(engine: Engine, tmp_path: Path) -> None:
    talk, bad = make_talk(engine), make_talk(engine, answers=("Wrong.", "Worse."))
    with session(engine) as opened:
        up = record_thumb(opened, talk.person, talk.candidate_a, 1)
        record_thumb(opened, talk.person, talk.candidate_a, -1, replaces=up.id)
        record_thumb(opened, talk.person, talk.candidate_b, 1)
        record_comparison(opened, bad.person, bad.turn, "both_bad")
    rows = exported(engine, "unpaired", tmp_path / "unpaired.jsonl")
    labels = {row["completion"][0]["content"]: row["label"] for row in rows}
    assert labels == {
        "There are 25.": False,
        "Ask somebody else.": True,
        "Wrong.": False,
        "Worse.": False,
    }


def test_gold_answers_are_completions_with_their_passages(engine: Engine, tmp_path: Path) -> None:
    store(engine, "# Gym\nThe gym opens at six.")
    Shelf().sync(engine, GoldPair("1", "When does the gym open?", "At six."), Complete())
    [row] = exported(engine, "prompt-completion", tmp_path / "gold.jsonl")
    assert row["completion"] == said("At six.")
    assert "The gym opens at six." in row["prompt"][-1]["content"]
    assert row["simulated"] is False


def test_exam_questions_are_left_out_of_every_kind(engine: Engine, tmp_path: Path) -> None:
    question = "How many days of leave are there?"
    exam = GoldPair("1", question.upper(), "25.")
    Shelf().sync(engine, exam, Complete(), name="exam", purpose="evaluation")
    Shelf().sync(engine, GoldPair("1", question, "25."), Complete())
    talk, bad = make_talk(engine, question), make_talk(engine, question)
    with session(engine) as opened:
        record_comparison(opened, talk.person, talk.turn, "A")
        record_comparison(opened, bad.person, bad.turn, "both_bad")
        record_thumb(opened, talk.person, talk.candidate_a, 1)
    for kind in ("preference", "unpaired", "prompt-completion"):
        assert exported(engine, kind, tmp_path / f"{kind}.jsonl") == []


def test_an_unknown_kind_is_refused(engine: Engine, tmp_path: Path) -> None:
    with session(engine) as opened, pytest.raises(InvalidInputError, match="prompt-completion"):
        export_feedback(opened, "dpo", tmp_path / "out.jsonl")
    assert list(tmp_path.glob("out*")) == []


def test_a_path_that_cannot_be_written_is_explained(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with session(engine) as opened, pytest.raises(InvalidInputError, match="cannot be written"):
        export_feedback(opened, "preference", tmp_path / "file" / "out.jsonl")
