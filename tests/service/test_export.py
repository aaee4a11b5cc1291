"""The feedback leaves as TRL reads it, whole or not at all, without the exam."""

from __future__ import annotations

import io
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from sqlalchemy import Engine
from sqlmodel import col, update

from plugins.contract import Complete, GoldPair
from plugins.pii import Pii
from rlhf_engine.records import Prompt
from rlhf_engine.render import messages
from service import audit, evidence, export, training_export
from service.corrections import accept
from service.database import session
from service.errors import InvalidInputError
from service.export import export_feedback
from service.feedback import (
    propose_correction,
    record_thumb,
    withdraw_thumb,
)
from service.settings import AnswerSettings
from service.tables import Conversation, now
from service.voting import UNDO_S, withdraw_vote
from tests.service.conversations import BASE, Talk, make_talk, record_comparison
from tests.service.sources import Shelf, store
from tests.service.web_client import Caller, web_app


def exported(engine: Engine, kind: str, path: Path, undo_s: float = 0) -> list[dict[str, Any]]:
    """What is exported, simulated rows too; a vote cannot be undone as soon as it is given."""
    count = export_feedback(engine, kind, path, simulated=True, undo_s=undo_s)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == count
    return rows


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_comparisons_with_a_winner_are_preferences(engine: Engine, tmp_path: Path) -> None:
    won, tied = make_talk(engine), make_talk(engine)
    with session(engine) as opened:
        vote = record_comparison(opened, won.person, won.turn, "B", "slightly").id
        record_comparison(opened, tied.person, tied.turn, "tie")
    [row] = exported(engine, "preference", tmp_path / "preference.jsonl")
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert row["prompt"][-1]["content"] == (
        "[1] Leave\nEverybody has 25 days.\n\nHow many days of leave are there?"
    )
    assert (row["chosen"], row["rejected"]) == (
        said("Ask somebody else."),
        said("There are 25."),
    )
    assert (row["strength"], row["margin"], row["simulated"]) == ("slightly", 0.0, False)
    assert (row["vote_id"], row["turn_id"]) == (vote, won.turn)
    assert row["chosen_version"] == row["rejected_version"] == BASE


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


@pytest.mark.parametrize("kind", export.KINDS)
def test_what_a_redactor_makes_a_question_of_the_exam_is_left_out(
    engine: Engine, tmp_path: Path, kind: str
) -> None:
    pii = Pii(Pii.Settings())
    store(engine, "# Seats\nAda and Bob sit upstairs.")
    exam = GoldPair("1", "Where does ada@x.com sit?", "Exam.")
    Shelf().sync(engine, exam, Complete(), name="exam", purpose="evaluation")
    for question in ("Where does bob@x.com sit?", "What does bob@x.com eat?"):
        Shelf().sync(engine, GoldPair("1", question, "So."), Complete(), name=f"{len(question)}")
        for choice in ("A", "both_bad"):
            talk = make_talk(engine, question)
            with session(engine) as opened:
                record_comparison(opened, talk.person, talk.turn, choice)
                record_thumb(opened, talk.person, talk.candidate_a, 1)
    path = tmp_path / "out.jsonl"
    count = export_feedback(
        engine, kind, path, undo_s=0, redact=lambda texts: [pii.redact(text) for text in texts]
    )
    asked = [
        json.loads(line)["prompt"][-1]["content"].splitlines()[-1]
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert count == {"preference": 1, "unpaired": 4, "prompt-completion": 1}[kind]
    assert asked == ["What does [e-mail address] eat?"] * count


def test_an_unknown_kind_is_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="prompt-completion"):
        export_feedback(engine, "dpo", tmp_path / "out.jsonl")
    with pytest.raises(InvalidInputError, match="parquet"):
        export_feedback(engine, "preference", tmp_path / "out.csv", form="csv")
    assert list(tmp_path.glob("out*")) == []


def test_a_path_that_cannot_be_written_is_explained(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidInputError, match="cannot be written"):
        export_feedback(engine, "preference", tmp_path / "file" / "out.jsonl")


def test_simulated_rows_are_left_out_unless_asked_for(engine: Engine, tmp_path: Path) -> None:
    talk = make_talk(engine, kind="simulated")
    with session(engine) as opened:
        record_comparison(opened, talk.person, talk.turn, "A", "much")
        record_thumb(opened, talk.person, talk.candidate_a, 1)
    for kind in ("preference", "unpaired"):
        assert export_feedback(engine, kind, tmp_path / "out.jsonl") == 0
        [row] = exported(engine, kind, tmp_path / "out.jsonl")
        assert row["simulated"] is True


def test_what_was_taken_back_or_deleted_or_can_be_undone_is_left_out(
    engine: Engine, tmp_path: Path
) -> None:
    taken_back, deleted, young = (make_talk(engine) for _ in range(3))
    with session(engine) as opened:
        thumb = record_thumb(opened, taken_back.person, taken_back.candidate_a, 1)
        withdraw_thumb(opened, taken_back.person, thumb.id)
        vote = record_comparison(opened, taken_back.person, taken_back.turn, "A")
        record_comparison(opened, taken_back.person, taken_back.turn, "skip", replaces=vote.id)
        record_comparison(opened, deleted.person, deleted.turn, "A")
        record_thumb(opened, deleted.person, deleted.candidate_a, 1)
        opened.execute(
            update(Conversation)
            .where(col(Conversation.person_id) == deleted.person.id)
            .values(deleted_at=now())
        )
    for kind in ("preference", "unpaired"):
        assert exported(engine, kind, tmp_path / "out.jsonl") == []
    with session(engine) as opened:
        record_comparison(opened, young.person, young.turn, "A")
    assert len(exported(engine, "preference", tmp_path / "out.jsonl")) == 1
    assert exported(engine, "preference", tmp_path / "out.jsonl", undo_s=60) == []


@pytest.mark.parametrize("kind", ["preference", "unpaired", "prompt-completion"])
def test_parquet_holds_the_same_rows(
    engine: Engine, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_export, "CHUNK", 2)
    monkeypatch.setattr(export, "BATCH", 2)
    give_feedback(engine)
    rows = exported(engine, kind, tmp_path / "out.jsonl")
    path = tmp_path / "out.parquet"
    assert export_feedback(engine, kind, path, simulated=True, undo_s=0) == len(rows) == 5
    assert pq.read_table(path).to_pylist() == rows


def test_a_file_without_rows_is_whole(engine: Engine, tmp_path: Path) -> None:
    assert export_feedback(engine, "preference", tmp_path / "none.parquet") == 0
    table = pq.read_table(tmp_path / "none.parquet")
    assert (table.num_rows, table.column_names[:3]) == (0, ["prompt", "chosen", "rejected"])


def test_reviewers_fetch_the_file_and_that_is_recorded(engine: Engine, tmp_path: Path) -> None:
    give_feedback(engine)
    path = tmp_path / "out.jsonl"
    export_feedback(engine, "preference", path, undo_s=0)
    with web_app(engine, tmp_path, voting={"undo_s": 0}) as app:
        caller = Caller(app)
        fetched = caller.get("/api/export/preference")
        assert fetched.content == path.read_bytes()
        assert "heed-preference.jsonl" in fetched.headers["content-disposition"]
        parquet = caller.get("/api/export/preference", form="parquet").content
        assert pq.read_table(io.BytesIO(parquet)).num_rows == 5
        assert caller.get("/api/export/dpo").status_code == 422
        assert caller.get("/api/export/preference", form="csv").status_code == 400
    with session(engine) as opened:
        assert len(audit.entries(opened, action="export.made")) == 2
    with web_app(engine, tmp_path, visitors="employee") as app:
        assert Caller(app).get("/api/export/preference").status_code == 403


def test_votes_and_prompts_are_those_that_training_would_have(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled_before = give_every_kind_of_feedback(engine)
    later = settled_before + timedelta(seconds=UNDO_S)
    monkeypatch.setattr(training_export, "now", lambda: later)
    answers = AnswerSettings(passages=3, source_bar=0.5)
    rows = {
        kind: _told_rows(engine, kind, tmp_path / f"{kind}.jsonl", answers) for kind in export.KINDS
    }
    with session(engine) as opened:
        snapshot = evidence.freeze_snapshot(
            opened,
            tmp_path / "snapshot",
            10,
            answers.passages,
            settled_before,
            answers.source_bar,
        )
    judged = [item for item in snapshot.comparisons if item.prompt.split != "exam"]
    assert {item.outcome for item in judged} == {"a", "b", "tie", "both_bad"}
    won = {
        "a": lambda item: (item.answer_a, item.answer_b),
        "b": lambda item: (item.answer_b, item.answer_a),
    }
    assert rows["preference"] == sorted(
        _line(item.prompt, *won[item.outcome](item)) for item in judged if item.outcome in won
    )
    bad = [item for item in judged if item.outcome == "both_bad"]
    thumbs = [item for item in snapshot.thumbs if item.prompt.split != "exam"]
    assert rows["unpaired"] == sorted(
        [_line(item.prompt, text, False) for item in bad for text in (item.answer_a, item.answer_b)]
        + [_line(item.prompt, item.answer, item.up) for item in thumbs]
    )
    lessons = [item for item in snapshot.demonstrations if item.prompt.split != "exam"]
    assert rows["prompt-completion"] == sorted(_line(item.prompt, item.answer) for item in lessons)
    assert [len(rows[kind]) for kind in export.KINDS] == [3, 5, 2]


def _told_rows(engine: Engine, kind: str, path: Path, answers: AnswerSettings) -> list[str]:
    """The exported rows as `_line` writes them."""
    export_feedback(engine, kind, path, simulated=True, undo_s=UNDO_S, answers=answers)
    columns = ("chosen", "rejected", "completion", "label")
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        told = [row[column] for column in columns if column in row]
        plain = [value[0]["content"] if isinstance(value, list) else value for value in told]
        lines.append(json.dumps([row["prompt"], *plain], sort_keys=True))
    return sorted(lines)


def _line(prompt: Prompt, *said: Any) -> str:
    return json.dumps([messages(prompt), *said], sort_keys=True)


def give_every_kind_of_feedback(engine: Engine) -> datetime:
    """Votes that count and votes that do not, each on a question of its own, and gold answers;
    the moment before which all but two of the votes were given."""
    talks = {
        name: make_talk(engine, f"What is the rule of {name}?", (f"{name} is so.", "None."))
        for name in ("first", "second", "tied", "bad", "skipped", "back", "gone", "exam", "young")
    }
    same = make_talk(engine, "What is the same?", ("Same.", "Same. "))
    machine = make_talk(engine, "What does a machine say?", kind="simulated")
    stopped = make_talk(engine, "What was stopped?", finish_reason="cancelled")
    store(engine, "# First\nThe rule of first is to be early.", "# Rules\nOne rule of many more.")
    Shelf().sync(
        engine,
        GoldPair("1", "What is the rule of first?", "To be early."),
        GoldPair("2", "Is there a rule for cats?", "No."),
        Complete(),
    )
    exam = GoldPair("1", "what is the rule of EXAM?", "25.")
    Shelf().sync(engine, exam, Complete(), name="exam", purpose="evaluation")
    with session(engine) as opened:

        def vote(talk: Talk, choice: str) -> str:
            return record_comparison(opened, talk.person, talk.turn, choice).id

        chosen = zip(talks.items(), ("A", "A", "tie", "both_bad", "skip", *"ABB"), strict=False)
        votes = {name: vote(talk, choice) for (name, talk), choice in chosen}
        change = talks["second"]
        record_comparison(opened, change.person, change.turn, "B", replaces=votes["second"])
        withdraw_vote(opened, talks["back"].person, votes["back"])
        vote(same, "A")
        vote(machine, "A")
        for name, value in (("first", 1), ("second", -1), ("gone", 1), ("exam", 1)):
            record_thumb(opened, talks[name].person, talks[name].candidate_a, value)
        record_thumb(opened, stopped.person, stopped.candidate_a, 1)
        record_thumb(opened, machine.person, machine.candidate_b, -1)
        back = record_thumb(opened, talks["back"].person, talks["back"].candidate_a, 1)
        withdraw_thumb(opened, talks["back"].person, back.id)
        gone = col(Conversation.person_id) == talks["gone"].person.id
        opened.execute(update(Conversation).where(gone).values(deleted_at=now()))
        cut = now()
        young = talks["young"]
        vote(young, "A")
        record_thumb(opened, young.person, young.candidate_a, 1)
    return cut


def give_feedback(engine: Engine, count: int = 5) -> None:
    """Comparisons, thumbs and accepted corrections of people, `count` of each."""
    for number in range(count):
        talk = make_talk(engine, f"What is rule number {number}?", (f"Rule {number}.", "None."))
        with session(engine) as opened:
            strength = (None, "slightly", "much")[number % 3]
            record_comparison(opened, talk.person, talk.turn, "AB"[number % 2], strength)
            record_thumb(opened, talk.person, talk.candidate_a, (1, -1)[number % 2])
            row = propose_correction(opened, talk.person, talk.candidate_a, f"It is {number}.")
            accept(opened, row.id, "Grace")
