"""Which questions are one, and on which side of the split a question stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_engine.errors import SnapshotError
from rlhf_engine.files import read_lines, sha256_of, write_json, write_lines
from rlhf_engine.records import Demonstration, Prompt
from rlhf_engine.signals import Known
from rlhf_engine.snapshot import Snapshot, freeze, is_held_out, normalised


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who builds the C++ client?", "Who builds the C# client?"),
        ("Who builds the C++ client?", "Who builds the C client?"),
        ("What is new in C++17?", "What is new in C 17?"),
        ("Who maintains the .NET build?", "Who maintains the net build?"),
        ("Is -5 allowed?", "Is 5 allowed?"),
        ("Is (-5) allowed?", "Is (5) allowed?"),
        ("Is \u22125 allowed?", "Is 5 allowed?"),
        ("Is .5 allowed?", "Is 5 allowed?"),
        ("May I give 5%?", "May I give 5?"),
        ("May I give \u20ac20?", "May I give 20?"),
        ("May I give \u20ac20?", "May I give $20?"),
        ("Is it for 18+?", "Is it for 18?"),
        ("\u0915\u093f", "\u0915\u0940"),
        ("\u0e17\u0e35\u0e48", "\u0e17\u0e34"),
    ],
)
def test_symbols_and_marks_that_make_another_word_make_another_question(
    one: str, other: str
) -> None:
    assert normalised(one) != normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How much leave?", "  how MUCH: leave"),
        ("Is re-use allowed?", "Is re use allowed"),
        ("What does Ctrl+C do?", "What does Ctrl-C do?"),
        ("From 9-17?", "From 9 - 17?"),
        ("Is the C++ client here?", "Is the (C++)-client here"),
        ("Where is \u201c.NET\u201d?", "Where is .NET?"),
        ("It ended.So what?", "It ended. So what?"),
        ("May I give 5%?", "May I give 5 %?"),
        ("Is \u22125 allowed?", "Is -5 allowed?"),
        ("May I give 20\u20ac?", "May I give 20 \u20ac?"),
        ("Is it here \u260e\ufe0f?", "Is it here \u260e?"),
        ("\u0130zin?", "i\u0307zin"),
    ],
)
def test_punctuation_spaces_and_case_make_no_other_question(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("How many days of leave are there?", "how many days of leave are there"),
        ("Who can't sign on 2026-05-01 (10:30)?", "who can t sign on 2026 05 01 10 30"),
        ("AT&T's re-use of user_id, a/b: 1.5?", "at t s re use of user_id a b 1 5"),
        ("- What? ... *Now*! #1 [2]", "what now 1 2"),
        ("STRASSE, Stra\u00dfe, \ufb01nal \u2460", "strasse strasse final 1"),
        ("\u0130zin nas\u0131l?", "i zin nas\u0131l"),
        ("\u0390 \u03a3\u03a3", "\u03b9 \u03c3\u03c3"),
        ("cafe\u0301 1\ufe0f\u20e3", "caf\u00e9 1"),
        ("\u4f11\u6687\u306f\u4f55\u65e5\uff1f", "\u4f11\u6687\u306f\u4f55\u65e5"),
    ],
)
def test_a_question_without_such_symbols_is_its_letters_and_digits(
    question: str, words: str
) -> None:
    assert normalised(question) == words


def test_a_normal_form_is_its_own() -> None:
    for question in ("Is -\u20ac5 or -.5 C++17, .NET?", "5% \u0915\u093f C# 18+"):
        assert normalised(normalised(question)) == normalised(question)


@pytest.mark.parametrize(
    ("question", "share"),
    [("How many days of leave are there?", 95), ("Who builds the C++ client?", 6)],
)
def test_letters_and_digits_alone_decide_what_is_held_out(question: str, share: int) -> None:
    """A side is for ever: these are the smallest shares that ever held the questions out."""
    assert [is_held_out(question, percent) for percent in (share, share + 1)] == [False, True]


def test_questions_that_differ_in_a_symbol_have_answers_of_their_own(tmp_path: Path) -> None:
    golds = {"Who builds the C++ client?": "Ada.", "Who builds the C# client?": "Eve."}
    shown = [
        Demonstration(Prompt(str(at), question), answer)
        for at, (question, answer) in enumerate(golds.items())
    ]
    known = Known.of(freeze(tmp_path, shown, [], [item.prompt for item in shown]))
    told = {item.prompt.question: known.about(item.prompt, "?").gold for item in shown}
    assert told == golds


def test_of_questions_that_differ_in_a_symbol_one_may_be_in_the_exam(tmp_path: Path) -> None:
    shown = [
        Demonstration(Prompt("1", "Is 5 allowed?", split="train"), "Yes."),
        Demonstration(Prompt("2", "Is -5 allowed?", split="exam"), "No."),
    ]
    snapshot = freeze(tmp_path, shown, [], [])
    assert snapshot.training_demonstrations() == shown[:1]
    assert snapshot.evaluation_demonstrations() == shown[1:]


@pytest.mark.parametrize("missing", ["", "answer", "id"])
def test_a_snapshot_of_another_version_is_named_as_unreadable(tmp_path: Path, missing: str) -> None:
    freeze(tmp_path, [Demonstration(Prompt("1", "How many?"), "28.")], [], [])
    path = tmp_path / "demonstrations.jsonl"
    (row,) = read_lines(path)
    if missing:
        del row.get("prompt" if missing == "id" else "", row)[missing]
    else:
        row["mood"] = "of another version"
    write_lines(path, [row])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["files"]["demonstrations"] = sha256_of(path)
    write_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(SnapshotError, match="cannot be read by this version"):
        Snapshot.open(tmp_path)


def test_a_manifest_without_its_files_is_named_as_unreadable(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"format": 1, "hash": "h"})
    with pytest.raises(SnapshotError, match="cannot be read by this version"):
        Snapshot.open(tmp_path)
