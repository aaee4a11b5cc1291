"""A vote is complete in itself, can be undone and withdrawn, and tells the versions only after."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, select

from rlhf_engine.snapshot import Snapshot
from service import asked_turn
from service.ballots import Ballot, Shown
from service.conversations import history
from service.corrections import withdraw_correction
from service.database import session
from service.errors import ConflictError, InvalidInputError, NotFoundError
from service.evidence import count_comparisons, freeze_snapshot
from service.feedback import (
    change_correction,
    current_thumbs,
    propose_correction,
    record_thumb,
    withdraw_thumb,
)
from service.given_votes import chosen_answer
from service.serving import Lease
from service.tables import (
    Candidate,
    Comparison,
    Conversation,
    GoldAnswer,
    Person,
    PolicyVersion,
    Turn,
)
from service.vote_pairs import Pairing, keep
from service.voting import (
    change_vote,
    current_comparisons,
    keep_vote,
    knows_versions,
    reveal,
    vote_on_turn,
    withdraw_vote,
)
from service.voting_tables import VotePair
from service.web.conversation_view import stored_turn
from tests.service.clock import Clock
from tests.service.conversations import Talk, make_talk


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def vote(talk: Talk, choice: str = "A", **more: Any) -> Comparison:
    with session(talk.engine) as opened:
        return vote_on_turn(opened, talk.person, talk.turn, Ballot(choice, **more))


def frozen(engine: Engine, folder: Path, clock: Clock) -> Snapshot:
    """What a run that begins now would learn from."""
    with session(engine) as opened:
        if opened.exec(select(GoldAnswer)).first() is None:
            for number in range(20):
                opened.add(
                    GoldAnswer(
                        external_id=str(number),
                        question=f"How is rule {number} read?",
                        answer="As it is written.",
                        content_hash="",
                    )
                )
            opened.flush()
        return freeze_snapshot(opened, folder, 1, 0, clock.at - timedelta(seconds=10))


def test_a_vote_holds_all_that_was_shown_and_why(engine: Engine, clock: Clock) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        keep(
            opened, opened.get_one(Turn, talk.turn), talk.person.id, Pairing(True, "ordinary", 0.2)
        )
    vote(talk, "B", strength="slightly", reason=" clearer ", decision_ms=4200, interface="chat/1")
    with session(engine) as opened:
        row = opened.exec(select(Comparison)).one()
    assert (row.candidate_a_id, row.candidate_b_id) == (talk.candidate_a, talk.candidate_b)
    assert row.version_a_id == row.version_b_id == "0000000000000000"
    assert (row.choice, row.strength, row.reason) == ("B", "slightly", "clearer")
    assert row.shown_at is not None
    assert (row.created_at - row.shown_at).total_seconds() == 4.2
    assert (row.pairing, row.probability, row.interface) == ("ordinary", 0.2, "chat/1")
    assert row.passages == ["p1"]
    assert set(row.settings) == {"a", "b"}
    assert (row.length_a, row.length_b) == (0, 0)
    assert row.blind
    assert len(Comparison.model_fields) >= 25


def test_a_vote_row_cannot_be_changed_in_place(engine: Engine) -> None:
    row = vote(make_talk(engine))
    with pytest.raises(DBAPIError, match="append-only"), Session(engine) as opened:
        stored = opened.get_one(Comparison, row.id)
        stored.choice = "B"
        opened.add(stored)
        opened.commit()


def test_sides_are_drawn_evenly() -> None:
    """Which lease stands on side A is a fair coin: of 2,000 draws within 4.5 deviations."""
    sides = Counter(
        asked_turn.new_rows([Lease("one"), Lease("two")], shuffled=True, seed=None)[0].side
        for _ in range(2000)
    )
    assert set(sides) == {"A", "B"}
    assert abs(sides["A"] - 1000) < 100


def test_an_undone_vote_leaves_no_trace_in_training(
    engine: Engine, clock: Clock, tmp_path: Path
) -> None:
    talk = make_talk(engine)
    row = vote(talk)
    assert frozen(engine, tmp_path / "1", clock).comparisons == ()
    with session(engine) as opened:
        withdraw_vote(opened, talk.person, row.id)
    clock.on(60)
    assert frozen(engine, tmp_path / "2", clock).comparisons == ()
    with session(engine) as opened:
        assert [item.choice for item in opened.exec(select(Comparison))] == ["A", "withdrawn"]
        assert not knows_versions(opened, talk.person.id, talk.turn)


def test_a_settled_vote_trains_until_it_is_withdrawn(
    engine: Engine, clock: Clock, tmp_path: Path
) -> None:
    talk = make_talk(engine)
    row = vote(talk)
    clock.on(10.1)
    assert [item.id for item in frozen(engine, tmp_path / "1", clock).comparisons] == [row.id]
    with session(engine) as opened:
        withdraw_vote(opened, talk.person, row.id)
    # At once: what was withdrawn a moment ago is in no new snapshot either.
    assert frozen(engine, tmp_path / "2", clock).comparisons == ()


def test_simulated_votes_wait_for_no_undo(engine: Engine, clock: Clock, tmp_path: Path) -> None:
    vote(make_talk(engine, kind="simulated"))
    assert len(frozen(engine, tmp_path / "1", clock).comparisons) == 1


def test_a_skip_is_kept_and_trains_nothing(engine: Engine, clock: Clock, tmp_path: Path) -> None:
    talk = make_talk(engine)
    vote(talk, "skip")
    clock.on(60)
    assert frozen(engine, tmp_path / "1", clock).comparisons == ()
    with session(engine) as opened:
        assert opened.exec(select(Comparison)).one().choice == "skip"
        assert current_comparisons(opened) == []
        assert count_comparisons(opened) == 0


def test_votes_in_a_deleted_conversation_train_nothing(
    engine: Engine, clock: Clock, tmp_path: Path
) -> None:
    talk = make_talk(engine)
    vote(talk)
    with session(engine) as opened:
        record_thumb(opened, talk.person, talk.candidate_a, 1)
    clock.on(60)
    assert len(frozen(engine, tmp_path / "1", clock).comparisons) == 1
    with session(engine) as opened:
        row = opened.exec(select(Conversation)).one()
        row.deleted_at = clock.at
    after = frozen(engine, tmp_path / "2", clock)
    assert (after.comparisons, after.thumbs) == ((), ())


def test_withdrawn_thumbs_are_not_in_force(engine: Engine) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        up = record_thumb(opened, talk.person, talk.candidate_a, 1)
        gone = withdraw_thumb(opened, talk.person, up.id)
        assert current_thumbs(opened) == []
        assert withdraw_thumb(opened, talk.person, gone.id).id == gone.id
        again = record_thumb(opened, talk.person, talk.candidate_a, -1)
        assert [row.id for row in current_thumbs(opened)] == [again.id]


def test_after_a_withdrawal_one_may_vote_again(engine: Engine, clock: Clock) -> None:
    talk = make_talk(engine)
    first = vote(talk, "A")
    with session(engine) as opened:
        withdraw_vote(opened, talk.person, first.id)
    second = vote(talk, "B")
    assert second.blind
    with session(engine) as opened:
        assert [row.id for row in current_comparisons(opened)] == [second.id]
        assert chosen_answer(opened, talk.person.id, talk.turn) == talk.candidate_b


def test_an_answer_chosen_with_sides_the_other_way_round_is_the_one_that_was_chosen(
    engine: Engine,
) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        turn = opened.get_one(Turn, talk.turn)
        first = opened.get_one(Candidate, talk.candidate_b)
        second = opened.get_one(Candidate, talk.candidate_a)
        chosen = keep_vote(opened, talk.person, Shown(turn, first, second), Ballot("A"))
        # Somebody else's taste, and later, says nothing of what the owner reads on.
        other = Person(name="Grace")
        opened.add(other)
        opened.flush()
        keep_vote(opened, other, Shown(turn, first, second), Ballot("B"))
        told = [item.answer for item in history(opened, talk.turn, 5)]
        entry = stored_turn(opened, talk.person, turn, lambda _turn: False, 10.0)
        assert told == [first.text]
        assert entry.comparison is not None
        assert (entry.comparison.id, entry.comparison.choice) == (chosen.id, "B")
        withdraw_vote(opened, talk.person, chosen.id)
        assert [item.answer for item in history(opened, talk.turn, 5)] == [second.text]
        entry = stored_turn(opened, talk.person, turn, lambda _turn: False, 10.0)
        assert entry.comparison is None


def test_whoever_could_know_the_versions_votes_no_longer_blind(
    engine: Engine, clock: Clock
) -> None:
    talk = make_talk(engine)
    first = vote(talk, "A")
    clock.on(3)
    with session(engine) as opened:
        quick = change_vote(opened, talk.person, first.id, Ballot("B"))
        assert quick.blind
    clock.on(11)
    with session(engine) as opened:
        late = change_vote(opened, talk.person, quick.id, Ballot("tie"))
        assert not late.blind
        assert (late.pairing, late.candidate_a_id) == (quick.pairing, quick.candidate_a_id)
        assert [row.choice for row in current_comparisons(opened)] == ["tie"]


def test_versions_are_told_when_the_vote_is_settled(engine: Engine, clock: Clock) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        opened.add(PolicyVersion(id="7", number=7))
        opened.flush()
        turn = opened.get_one(Turn, talk.turn)
        extra = Turn(conversation_id=turn.conversation_id, position=1, question="?", compared=True)
        opened.add(extra)
        opened.flush()
        for side, version in (("A", "7"), ("B", "0000000000000000")):
            opened.add(
                Candidate(
                    turn_id=extra.id,
                    side=side,
                    version_id=version,
                    text=side,
                    finish_reason="stop",
                    seed=1,
                    canary=version == "7",
                )
            )
    with session(engine) as opened:
        row = vote_on_turn(opened, talk.person, extra.id, Ballot("B"))
        assert row.pairing == "canary"
    clock.on(9.9)
    with session(engine) as opened:
        assert not knows_versions(opened, talk.person.id, extra.id)
        assert reveal(opened, talk.person, row.id) is None
    clock.on(0.2)
    with session(engine) as opened:
        told = reveal(opened, talk.person, row.id)
    assert told is not None
    assert (told.version_a, told.version_b, told.goes_on_with) == (7, 0, "B")
    assert (told.canary_a, told.canary_b) == (True, False)


def test_only_ones_own_vote_can_be_changed_withdrawn_or_told(engine: Engine, clock: Clock) -> None:
    mine, other = make_talk(engine), make_talk(engine)
    theirs = vote(other)
    clock.on(60)
    with session(engine) as opened:
        for act in (
            lambda: change_vote(opened, mine.person, theirs.id, Ballot("B")),
            lambda: withdraw_vote(opened, mine.person, theirs.id),
            lambda: reveal(opened, mine.person, theirs.id),
        ):
            with pytest.raises(NotFoundError):
                act()


def test_a_vote_that_was_replaced_cannot_be_withdrawn(engine: Engine, clock: Clock) -> None:
    talk = make_talk(engine)
    first = vote(talk)
    with session(engine) as opened:
        change_vote(opened, talk.person, first.id, Ballot("B"))
        with pytest.raises(ConflictError, match="replaced already"):
            withdraw_vote(opened, talk.person, first.id)


def test_a_pair_counts_the_votes_that_say_something(engine: Engine, clock: Clock) -> None:
    talk = make_talk(engine)

    def pair() -> tuple[int, str]:
        with session(engine) as opened:
            row = opened.get_one(VotePair, talk.turn)
            return row.votes, row.state

    first = vote(talk, "skip")
    assert pair() == (0, "waiting")
    with session(engine) as opened:
        second = change_vote(opened, talk.person, first.id, Ballot("A"))
    assert pair() == (1, "done")
    with session(engine) as opened:
        withdraw_vote(opened, talk.person, second.id)
    assert pair() == (0, "waiting")


@pytest.mark.parametrize(
    ("ballot", "said"),
    [
        ({"choice": "withdrawn"}, "choice is 'withdrawn'"),
        ({"choice": "skip", "strength": "much"}, "belongs to a choice of A or B"),
        ({"choice": "A", "reason": "x" * 501}, "at most 500"),
        ({"choice": "A", "interface": "x" * 41}, "at most 40"),
    ],
)
def test_a_ballot_that_cannot_be_meant_is_refused(
    engine: Engine, ballot: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        vote(make_talk(engine), **ballot)


def test_a_correction_can_be_changed_until_it_is_decided_and_withdrawn_always(
    engine: Engine,
) -> None:
    talk, other = make_talk(engine), make_talk(engine)
    with session(engine) as opened:
        row = propose_correction(opened, talk.person, talk.candidate_a, "30 days.")
        change_correction(opened, talk.person, row.id, "31 days.")
        with pytest.raises(NotFoundError):
            withdraw_correction(opened, other.person, row.id)
        stored = opened.get_one(GoldAnswer, row.id)
        assert (stored.answer, stored.state) == ("31 days.", "proposed")
        stored.state = "accepted"
        opened.add(stored)
        opened.flush()
        with pytest.raises(ConflictError, match="decided"):
            change_correction(opened, talk.person, row.id, "32 days.")
        assert withdraw_correction(opened, talk.person, row.id).state == "withdrawn"
