"""A snapshot holds what there is to learn, each question on one side, prompts as served."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from plugins.contract import Complete, GoldPair, Question
from plugins.pii import Pii
from rlhf_engine.errors import SnapshotError
from rlhf_engine.records import Prompt, from_json, to_json
from rlhf_engine.snapshot import Snapshot, normalised
from service.corrections import accept
from service.database import session
from service.evidence import Sides, count_comparisons, freeze_snapshot, new_comparisons
from service.feedback import propose_correction, record_thumb
from service.retrieval import retrieve
from service.tables import DataSource, Document, GoldAnswer, TrainingRun, Turn, now
from tests.service.conversations import make_talk, record_comparison
from tests.service.sources import Shelf, store

QUESTIONS = [f"How is rule {n} of the office read?" for n in range(60)]
MAILS = [f"Who reads mail to user{n}@example.com?" for n in range(40)]
REDACTED = "Who reads mail to [e-mail address]?"


def gold(engine: Engine, *pairs: tuple[str, str], purpose: str = "training") -> None:
    """Sync question-answer pairs from a source of that purpose."""
    items = [GoldPair(str(n), question, answer) for n, (question, answer) in enumerate(pairs)]
    report = Shelf().sync(engine, *items, Complete(), name=purpose, purpose=purpose)
    assert report.error is None


def frozen(engine: Engine, folder: Path, percent: int = 20, passages: int = 2) -> Snapshot:
    with session(engine) as opened:
        return freeze_snapshot(opened, folder, percent, passages)


def frozen_without_pii(engine: Engine, folder: Path, percent: int = 20) -> Snapshot:
    pii = Pii(Pii.Settings())
    with session(engine) as opened:
        return freeze_snapshot(
            opened, folder, percent, 2, redact=lambda texts: [pii.redact(text) for text in texts]
        )


def test_demonstrations_carry_the_passages_that_serving_would_show(
    engine: Engine, tmp_path: Path
) -> None:
    store(engine, "# Rule 7\nRule 7 says: knock.", "# Lunch\nLunch is at noon.")
    gold(engine, *((question, "As it is written.") for question in QUESTIONS))
    snapshot = frozen(engine, tmp_path / "snapshot", passages=1)
    with session(engine) as opened:
        for item in snapshot.demonstrations:
            assert list(item.prompt.passages) == retrieve(opened, item.prompt.question, 1)
    assert any(item.prompt.passages for item in snapshot.demonstrations)


def test_about_the_asked_share_is_held_out_and_it_stays_so(engine: Engine, tmp_path: Path) -> None:
    gold(engine, *((question, "As it is written.") for question in QUESTIONS))
    first = frozen(engine, tmp_path / "one")
    held_out = {d.prompt.question for d in first.demonstrations if d.prompt.split == "held_out"}
    assert 4 <= len(held_out) <= 20
    gold(engine, *((question, "Now otherwise.") for question in [*QUESTIONS, "And a new one?"]))
    second = frozen(engine, tmp_path / "two")
    sides = {d.prompt.question: d.prompt.split for d in second.demonstrations}
    assert {question for question in QUESTIONS if sides[question] == "held_out"} == held_out


def test_the_same_evidence_makes_the_same_snapshot(engine: Engine, tmp_path: Path) -> None:
    store(engine, "# Rule 7\nRule 7 says: knock.")
    gold(engine, *((question, "As it is written.") for question in QUESTIONS))
    first, again = frozen(engine, tmp_path / "one"), frozen(engine, tmp_path / "two")
    assert first.hash == again.hash
    gold(engine, *((question, "Otherwise.") for question in QUESTIONS))
    assert frozen(engine, tmp_path / "three").demonstrations_hash != first.demonstrations_hash


def test_no_question_is_on_two_sides(engine: Engine, tmp_path: Path) -> None:
    gold(engine, *((question, "As it is written.") for question in QUESTIONS))
    gold(engine, (QUESTIONS[0].upper(), "Exam."), (QUESTIONS[1], "Exam."), purpose="evaluation")
    for question in (QUESTIONS[0], QUESTIONS[5].replace("?", " ?!"), *QUESTIONS[10:30]):
        talk = make_talk(engine, question)
        with session(engine) as opened:
            record_comparison(opened, talk.person, talk.turn, "A")
    snapshot = frozen(engine, tmp_path / "snapshot")
    sides: dict[str, set[str]] = {}
    for prompt in (
        *(item.prompt for item in snapshot.demonstrations),
        *(item.prompt for item in snapshot.comparisons),
        *snapshot.prompts,
    ):
        sides.setdefault(normalised(prompt.question), set()).add(prompt.split)
    assert all(len(found) == 1 for found in sides.values())
    assert {side for found in sides.values() for side in found} == {"train", "held_out", "exam"}


def test_an_exam_question_is_in_no_training_data(engine: Engine, tmp_path: Path) -> None:
    gold(engine, *((question, "Training copy.") for question in QUESTIONS))
    gold(engine, (f"  {QUESTIONS[3].upper()} ", "Exam answer."), purpose="evaluation")
    snapshot = frozen(engine, tmp_path / "snapshot")
    same = [
        item
        for item in snapshot.demonstrations
        if normalised(item.prompt.question) == normalised(QUESTIONS[3])
    ]
    assert [(item.answer, item.prompt.split) for item in same] == [("Exam answer.", "exam")]
    assert snapshot.evaluation_demonstrations() == same
    asked = {normalised(prompt.question) for prompt in snapshot.prompts}
    assert normalised(QUESTIONS[3]) not in asked
    assert len(asked) == len(QUESTIONS) - 1


@pytest.mark.parametrize("percent", [20, 50, 80])
def test_questions_that_a_redactor_makes_the_same_are_on_one_side(
    engine: Engine, tmp_path: Path, percent: int
) -> None:
    gold(engine, *((question, "As it is written.") for question in [*QUESTIONS, *MAILS[:20]]))
    for question in MAILS[20:]:
        talk = make_talk(engine, question)
        with session(engine) as opened:
            record_comparison(opened, talk.person, talk.turn, "A")
            record_thumb(opened, talk.person, talk.candidate_a, 1)
    snapshot = frozen_without_pii(engine, tmp_path / "snapshot", percent)
    judged = [*snapshot.demonstrations, *snapshot.comparisons, *snapshot.thumbs]
    same = [item.prompt for item in judged if item.prompt.question == REDACTED]
    assert len(same) == 60
    assert {prompt.split for prompt in same} == {Sides(frozenset(), percent).of(REDACTED)}
    assert [prompt.question for prompt in snapshot.prompts].count(REDACTED) == 1


def test_nothing_is_learnt_of_a_question_that_a_redactor_makes_one_of_the_exam(
    engine: Engine, tmp_path: Path
) -> None:
    gold(engine, *((question, "As it is written.") for question in [*QUESTIONS, MAILS[1]]))
    gold(engine, (MAILS[0], "Exam."), purpose="evaluation")
    Shelf().sync(engine, Question("q", MAILS[2]), Complete(), name="asked", purpose="training")
    talk = make_talk(engine, MAILS[3])
    with session(engine) as opened:
        record_comparison(opened, talk.person, talk.turn, "A")
        record_thumb(opened, talk.person, talk.candidate_a, 1)
    snapshot = frozen_without_pii(engine, tmp_path / "snapshot")
    [shown] = [item for item in snapshot.demonstrations if item.prompt.question == REDACTED]
    assert (shown.answer, shown.prompt.split) == ("Exam.", "exam")
    [comparison], [thumb] = snapshot.comparisons, snapshot.thumbs
    assert (comparison.prompt.split, thumb.prompt.split) == ("exam", "exam")
    assert REDACTED not in [prompt.question for prompt in snapshot.prompts]


def test_a_question_of_the_exam_is_not_learnt_in_a_spelling_that_a_redactor_leaves(
    engine: Engine, tmp_path: Path
) -> None:
    gold(engine, *((question, "As it is written.") for question in QUESTIONS))
    gold(engine, ("Where does Ada sit?", "Exam."), purpose="evaluation")
    for question in ("WHERE DOES ADA SIT?", "Where does ADA sit"):
        talk = make_talk(engine, question)
        with session(engine) as opened:
            record_comparison(opened, talk.person, talk.turn, "A")
    with session(engine) as opened:
        snapshot = freeze_snapshot(
            opened, tmp_path, 20, 2, redact=lambda texts: [t.replace("Ada", "NAME") for t in texts]
        )
    assert [item.prompt.split for item in snapshot.comparisons] == ["exam", "exam"]


def test_comparisons_keep_the_prompt_as_it_was_answered(engine: Engine, tmp_path: Path) -> None:
    gold(engine, *((question, "As it is written.") for question in QUESTIONS))
    talk = make_talk(engine, kind="simulated")
    with session(engine) as opened:
        vote = record_comparison(opened, talk.person, talk.turn, "B", "much")
    [item] = frozen(engine, tmp_path / "snapshot", percent=1).comparisons
    with session(engine) as opened:
        stored = from_json(Prompt, opened.get_one(Turn, talk.turn).prompt)
    assert (item.id, item.rater, item.simulated) == (vote.id, talk.person.id, True)
    assert (item.outcome, item.strength) == ("b", "much")
    assert (item.chosen, item.rejected) == ("Ask somebody else.", "There are 25.")
    assert item.prompt == stored
    assert len(stored.passages) == 1


def test_comparisons_say_when_and_from_which_source(engine: Engine, tmp_path: Path) -> None:
    gold(engine, *((question, "As it is written.") for question in QUESTIONS))
    store(engine, "# Leave\nEverybody has 25 days of leave.")
    first, second = make_talk(engine), make_talk(engine)
    with session(engine) as opened:
        [passage] = retrieve(opened, "How many days of leave?", 1)
        turn = opened.get_one(Turn, second.turn)
        turn.prompt = {**turn.prompt, "passages": [to_json(passage)]}
        record_comparison(opened, second.person, second.turn, "A")
    with session(engine) as opened:
        record_comparison(opened, first.person, first.turn, "A")
    known, unknown = frozen(engine, tmp_path / "snapshot").comparisons
    with session(engine) as opened:
        document = opened.exec(select(Document)).one()
        name = opened.get_one(DataSource, document.source_id).name
    assert (known.source, unknown.source) == (name, "")
    assert known.rated_at < unknown.rated_at
    assert datetime.fromisoformat(known.rated_at).tzinfo == UTC


def test_thumbs_in_force_are_gathered_but_not_on_stopped_answers(
    engine: Engine, tmp_path: Path
) -> None:
    gold(engine, *((question, "As it is written.") for question in QUESTIONS))
    talk = make_talk(engine, answers=("There are 25.",))
    stopped = make_talk(engine, answers=("There a",), finish_reason="cancelled")
    with session(engine) as opened:
        old = record_thumb(opened, talk.person, talk.candidate_a, 1)
        record_thumb(opened, talk.person, talk.candidate_a, -1, replaces=old.id)
        record_thumb(opened, stopped.person, stopped.candidate_a, 1)
    snapshot = frozen(engine, tmp_path / "snapshot", percent=1)
    [thumb] = snapshot.thumbs
    assert (thumb.answer, thumb.up, thumb.rater) == ("There are 25.", False, talk.person.id)
    asked = [prompt.question for prompt in snapshot.prompts]
    assert thumb.prompt.question in asked


def test_a_replaced_vote_teaches_nothing(engine: Engine, tmp_path: Path) -> None:
    gold(engine, *((question, "As it is written.") for question in QUESTIONS))
    talk, same = make_talk(engine), make_talk(engine, answers=("Twice.", " Twice. "))
    with session(engine) as opened:
        first = record_comparison(opened, talk.person, talk.turn, "A")
        record_comparison(opened, talk.person, talk.turn, "both_bad", replaces=first.id)
        record_comparison(opened, same.person, same.turn, "A")
    snapshot = frozen(engine, tmp_path / "snapshot")
    assert [item.outcome for item in snapshot.comparisons] == ["both_bad"]


def test_only_accepted_answers_are_learnt_and_the_newest_of_each_question(
    engine: Engine, tmp_path: Path
) -> None:
    talk = make_talk(engine, "How many days of leave are there?")
    gold(engine, ("How many days of LEAVE are there", "25."), ("Is there a gym?", "Yes."))
    with session(engine) as opened:
        propose_correction(opened, talk.person, talk.candidate_a, "30.")

    def answers(name: str) -> set[str]:
        return {item.answer for item in frozen(engine, tmp_path / name, 1).demonstrations}

    assert answers("proposed") == {"25.", "Yes."}
    with session(engine) as opened:
        row = opened.get_one(GoldAnswer, _correction(engine))
        row.state, row.updated = "accepted", now()
    assert answers("accepted") == {"30.", "Yes."}
    gold(engine, ("Is there a gym?", "Yes."))
    with session(engine) as opened:
        opened.get_one(GoldAnswer, _correction(engine)).state = "removed"
    assert "30." not in answers("removed")


def test_an_answer_that_its_source_corrects_stands_before_an_older_correction(
    engine: Engine, tmp_path: Path
) -> None:
    question = "How long is the notice?"
    talk = make_talk(engine, question)

    def synced(*pairs: GoldPair) -> str:
        assert Shelf().sync(engine, *pairs, Complete()).error is None
        [item] = frozen(engine, tmp_path, 1).demonstrations
        return item.answer

    before = GoldPair("1", question, "1 month.")
    assert synced(before) == "1 month."
    with session(engine) as opened:
        number = propose_correction(opened, talk.person, talk.candidate_a, "2 months.").id
        accept(opened, number, "Grace")
    assert synced(before) == "2 months."
    assert synced(replace(before, author="HR")) == "2 months."
    assert synced(replace(before, answer="3 months (new law).")) == "3 months (new law)."


def _correction(engine: Engine) -> str:
    with session(engine) as opened:
        return opened.exec(select(GoldAnswer.id).where(GoldAnswer.origin == "correction")).one()


def test_without_gold_answers_there_is_nothing_to_freeze(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no gold answer"):
        frozen(engine, tmp_path / "snapshot")
    assert not (tmp_path / "snapshot" / "manifest.json").exists()


def test_new_comparisons_are_counted_since_the_last_snapshot(engine: Engine) -> None:
    def vote() -> None:
        talk = make_talk(engine)
        with session(engine) as opened:
            record_comparison(opened, talk.person, talk.turn, "A")

    def run(**values: Any) -> None:
        with session(engine) as opened:
            opened.add(TrainingRun(folder="runs/1", requested_by="Ada", reason="t", **values))

    def fresh() -> int:
        with session(engine) as opened:
            return new_comparisons(opened)

    assert fresh() == 0
    vote()
    vote()
    assert fresh() == 2
    with session(engine) as opened:
        run(snapshot_hash="abc", comparisons=count_comparisons(opened))
    run(comparisons=0)
    assert fresh() == 0
    vote()
    assert fresh() == 1
