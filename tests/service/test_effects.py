"""What came of votes is told from what the run truly learnt, in sentences worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import select, update
from structlog.testing import capture_logs

from rlhf_engine import records
from rlhf_engine.plan import RunPlan
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.snapshot import freeze
from rlhf_engine.waiting import read_waiting, write_spreads
from service.ballots import Ballot
from service.database import session
from service.effects import Effect, effects_of, note_learnt
from service.feedback import record_thumb
from service.tables import (
    Comparison,
    Conversation,
    GateReport,
    GoldAnswer,
    PolicyVersion,
    Promotion,
    Thumb,
    TrainingRun,
    Turn,
    now,
)
from service.vote_pairs import Pairing, keep
from service.vote_spreads import leave_pairs, note_spreads
from service.voting import vote_on_turn
from service.voting_tables import LearntVote, RunVoter, VotePair
from tests.service.conversations import Talk, make_talk

CHANCE = Pairing(True, "ordinary", 0.2)
WON = {"value": 0.5812, "lower": 0.5187, "upper": 0.6401}


def effect(**over: object) -> Effect:
    told: dict[str, object] = {
        "run_id": "r",
        "version": 7,
        "against": 6,
        "trained": 14,
        "measured": 0,
        "corrections": 0,
        "state": "live",
        "win_rate": (0.5812, 0.5187, 0.6401),
        "chrf_gain": None,
        "finished_at": None,
    }
    return Effect(**{**told, **over})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (
            effect(),
            "Your 14 votes trained version 7. It wins 58% (52 to 64) of held-out comparisons "
            "against version 6. It answers questions now.",
        ),
        (
            effect(trained=1, measured=2, corrections=1, state="replaced"),
            "Your 1 vote and 1 corrected answer trained version 7. Your 2 more votes were kept to "
            "measure version 7. It wins 58% (52 to 64) of held-out comparisons against version 6. "
            "It answered questions until a newer version took its place.",
        ),
        (
            effect(trained=0, measured=1, state="refused", win_rate=(0.471, 0.40, 0.54)),
            "Your 1 vote was kept to measure version 7. It wins 47% (40 to 54) of held-out "
            "comparisons against version 6. That was not enough to let it answer questions.",
        ),
        (
            effect(
                trained=0,
                corrections=2,
                against=0,
                win_rate=None,
                chrf_gain=(2.14, 1.0, 3.26),
                state="awaiting_approval",
            ),
            "Your 2 corrected answers trained version 7. Its answers to held-out questions are "
            "2.1 points closer to the right ones than those of version 0 (+1.0 to +3.3). "
            "An operator has not decided yet whether it will answer questions.",
        ),
    ],
)
def test_the_sentence_says_what_came_of_it(told: Effect, sentence: str) -> None:
    assert told.sentence == sentence


def prompt(number: str, split: records.Split) -> records.Prompt:
    return records.Prompt(number, f"Question {number}?", split=split)


def finished_run(
    engine: Engine, tmp_path: Path, talks: list[tuple[Talk, records.Split]], **more: object
) -> str:
    """A run whose snapshot holds these votes, those of each talk on its side, and gold answers."""
    folder = tmp_path / "run"
    with session(engine) as opened:
        rows = {row.turn_id: row for row in opened.exec(select(Comparison))}
        thumbs = {row.person_id: row for row in opened.exec(select(Thumb))}
        comparisons = [
            records.Comparison(
                rows[talk.turn].id,
                prompt(talk.turn, split),
                "one",
                "two",
                "a",
                rater=talk.person.id,
            )
            for talk, split in talks
        ]
        gold = opened.exec(select(GoldAnswer)).all()
        snapshot = freeze(
            folder / "snapshot",
            [records.Demonstration(prompt(row.id, "train"), row.answer) for row in gold],
            comparisons,
            [],
            [
                records.Thumb(
                    prompt(talk.turn, split),
                    "one",
                    True,
                    talk.person.id,
                    rated_at=thumbs[talk.person.id].created_at.isoformat(timespec="microseconds"),
                )
                for talk, split in talks
                if talk.person.id in thumbs
            ],
        )
        opened.add(PolicyVersion(id="v6", number=6, state="retired"))
        opened.add(PolicyVersion(id="v7", number=7, state="live"))
        opened.flush()
        run = TrainingRun(
            id="run",
            folder=str(folder),
            requested_by="x",
            reason="x",
            state="promoted",
            candidate_id="v7",
            plan={"live": "/policies/v6"},
            snapshot_hash=snapshot.hash,
        )
        opened.add(run)
        opened.flush()
        opened.add(
            GateReport(run_id="run", passed=True, sentence="Passed", figures={"win_rate": WON})
        )
        opened.add(Promotion(version_id="v7", by="gate", evidence="x", run_id="run", state="done"))
        plan = RunPlan(base="b", **more)  # type: ignore[arg-type]
        note_learnt(opened, "run", RunFolder(folder), plan)
        note_learnt(opened, "run", RunFolder(folder), plan)
    return "run"


def voted_talk(engine: Engine) -> Talk:
    talk = make_talk(engine)
    with session(engine) as opened:
        vote_on_turn(opened, talk.person, talk.turn, Ballot("A"))
        record_thumb(opened, talk.person, talk.candidate_a, 1)
    return talk


def gold_answer(engine: Engine, talk: Talk | None = None) -> None:
    with session(engine) as opened:
        opened.add(
            GoldAnswer(
                external_id="1",
                question="Q?",
                answer="A.",
                content_hash="",
                origin="correction" if talk else "source",
                person_id=talk.person.id if talk else None,
            )
        )


def test_votes_count_as_trained_or_measured_by_the_snapshots_own_split(
    engine: Engine, tmp_path: Path
) -> None:
    trained, held_out, unused = voted_talk(engine), voted_talk(engine), voted_talk(engine)
    gold_answer(engine, trained)
    finished_run(engine, tmp_path, [(trained, "train"), (held_out, "held_out")])
    with session(engine) as opened:
        assert effects_of(opened, unused.person.id) == []
        [mine] = effects_of(opened, trained.person.id)
        [theirs] = effects_of(opened, held_out.person.id)
        assert mine.sentence == (
            "Your 2 votes and 1 corrected answer trained version 7. It wins 58% (52 to 64) of "
            "held-out comparisons against version 6. It answers questions now."
        )
        assert (theirs.trained, theirs.measured) == (0, 2)
        kinds = {row.kind for row in opened.exec(select(LearntVote))}
        assert kinds == {"comparison", "thumb", "correction"}
        counts = {
            row.person_id: (row.trained, row.measured) for row in opened.exec(select(RunVoter))
        }
    assert counts == {trained.person.id: (3, 0), held_out.person.id: (0, 2)}


def test_a_run_without_a_reward_model_learnt_from_no_vote(engine: Engine, tmp_path: Path) -> None:
    talk = voted_talk(engine)
    gold_answer(engine)
    finished_run(engine, tmp_path, [(talk, "train")], stages=("snapshot", "sft", "evaluation"))
    with session(engine) as opened:
        assert effects_of(opened, talk.person.id) == []


def test_a_vote_belongs_to_the_first_run_that_used_it(engine: Engine, tmp_path: Path) -> None:
    talk = voted_talk(engine)
    gold_answer(engine)
    finished_run(engine, tmp_path, [(talk, "train")])
    with session(engine) as opened:
        opened.add(TrainingRun(id="later", folder="x", requested_by="x", reason="x"))
        opened.flush()
        note_learnt(opened, "later", RunFolder(tmp_path / "run"), RunPlan(base="b"))
        assert [row.run_id for row in effects_of(opened, talk.person.id)] == ["run"]


def test_waiting_pairs_are_left_for_a_run_and_its_spreads_order_the_queue(
    engine: Engine, tmp_path: Path
) -> None:
    waits, voted = make_talk(engine), make_talk(engine)
    with session(engine) as opened:
        for talk in (waits, voted):
            keep(opened, opened.get_one(Turn, talk.turn), talk.person.id, CHANCE)
        vote_on_turn(opened, voted.person, voted.turn, Ballot("A"))
        leave_pairs(opened, tmp_path, 10)
        [pair] = read_waiting(tmp_path)
        assert (pair.id, pair.answer_a, pair.answer_b) == (
            waits.turn,
            "There are 25.",
            "Ask somebody else.",
        )
        note_spreads(opened, tmp_path)
        assert opened.get_one(VotePair, waits.turn).certainty == 0
        write_spreads(tmp_path, {waits.turn: 0.75})
        note_spreads(opened, tmp_path)
    with session(engine) as opened:
        assert opened.get_one(VotePair, waits.turn).certainty == -0.75


def test_spreads_that_cannot_be_read_leave_the_queue_as_it_is(
    engine: Engine, tmp_path: Path
) -> None:
    talk = make_talk(engine)
    (tmp_path / "disagreement.jsonl").write_text('{"id": 1')
    with session(engine) as opened, capture_logs() as said:
        keep(opened, opened.get_one(Turn, talk.turn), talk.person.id, CHANCE)
        note_spreads(opened, tmp_path)
        assert opened.get_one(VotePair, talk.turn).certainty == 0
    assert [row["log_level"] for row in said] == ["warning"]


def test_pairs_of_a_deleted_conversation_are_left_for_no_run(
    engine: Engine, tmp_path: Path
) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        keep(opened, opened.get_one(Turn, talk.turn), talk.person.id, CHANCE)
        opened.execute(update(Conversation).values(deleted_at=now()))
        leave_pairs(opened, tmp_path, 10)
    assert read_waiting(tmp_path) == []
