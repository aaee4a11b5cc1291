"""Who is shown which pair next: nobody's secrets, the least certain first, one voter at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from service import voting_queue
from service.ballots import Ballot
from service.database import session
from service.errors import ConflictError, NotFoundError
from service.evidence import count_comparisons
from service.feedback import current_comparisons
from service.settings import AnswerSettings, Settings, VotingSettings
from service.tables import (
    Candidate,
    Comparison,
    Conversation,
    DataSource,
    Document,
    GoldAnswer,
    Passage,
    Person,
    Turn,
)
from service.vote_checks import checked_people, tally, withdraw_check
from service.vote_offers import OfferedAnswers
from service.vote_pairs import Pairing, budget_left, draw, keep, note_spreads
from service.voting_figures import agreement, own_voting
from service.voting_queue import Voter, next_offer, vote_on_offer, waiting_for
from service.voting_tables import CheckVote, VoteOffer, VotePair
from tests.service.clock import Clock
from tests.service.conversations import Talk, make_talk

NO_CHECKS = VotingSettings(check_share=0, overlap_share=0)
SHARED = VotingSettings(check_share=0, overlap_share=0, share_questions=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@dataclass
class Booth:
    """Somebody at the voting page."""

    engine: Engine
    person: Person
    settings: VotingSettings = NO_CHECKS
    reviews: bool = False
    groups: tuple[str, ...] = ("everyone",)

    @property
    def voter(self) -> Voter:
        return Voter(self.person, self.groups, self.reviews)

    def next(self) -> OfferedAnswers | None:
        with session(self.engine) as opened:
            return next_offer(opened, self.voter, self.settings)

    def turn(self) -> str | None:
        offer = self.next()
        return None if offer is None else self.turn_of(offer)

    def turn_of(self, offer: OfferedAnswers) -> str | None:
        with session(self.engine) as opened:
            return opened.get_one(VoteOffer, offer.id).turn_id

    def vote(self, offer: OfferedAnswers, choice: str = "A") -> Comparison | CheckVote:
        with session(self.engine) as opened:
            return vote_on_offer(opened, self.person, offer.id, Ballot(choice))


def pair_of(engine: Engine, talk: Talk, wanted: int = 1) -> str:
    """Put a talk's two answers into the queue."""
    with session(engine) as opened:
        keep(opened, opened.get_one(Turn, talk.turn), talk.person.id, Pairing(True, "ordinary", 1))
        opened.get_one(VotePair, talk.turn).wanted = wanted
    return talk.turn


def somebody(engine: Engine, name: str = "Eve", **more: Any) -> Booth:
    person = Person(name=name)
    with session(engine) as opened:
        opened.add(person)
    return Booth(engine, person, **more)


def simulated(engine: Engine, question: str = "How many days?", **more: Any) -> str:
    return pair_of(
        engine, without_passages(engine, make_talk(engine, question, kind="simulated")), **more
    )


def without_passages(engine: Engine, talk: Talk) -> Talk:
    with session(engine) as opened:
        turn = opened.get_one(Turn, talk.turn)
        turn.prompt = {**turn.prompt, "passages": []}
    return talk


def test_a_person_sees_their_own_and_simulated_pairs_and_nobody_elses(engine: Engine) -> None:
    mine, other = make_talk(engine), make_talk(engine)
    own, foreign, simulation = pair_of(engine, mine), pair_of(engine, other), simulated(engine)
    booth = Booth(engine, mine.person)
    seen = set()
    for _ in range(3):
        offer = booth.next()
        if offer is not None:
            seen.add(booth.turn_of(offer))
            booth.vote(offer)
    assert seen == {own, simulation}
    assert foreign not in seen


@pytest.mark.parametrize(
    ("settings", "reviews", "seen"),
    [(NO_CHECKS, True, False), (SHARED, False, False), (SHARED, True, True)],
)
def test_other_peoples_pairs_are_for_reviewers_where_the_setting_says_so(
    engine: Engine, settings: VotingSettings, reviews: bool, seen: bool
) -> None:
    talk = without_passages(engine, make_talk(engine))
    pair_of(engine, talk)
    booth = somebody(engine, settings=settings, reviews=reviews)
    assert (booth.turn() == talk.turn) is seen


def test_pairs_of_deleted_conversations_are_for_nobody(engine: Engine) -> None:
    talk = make_talk(engine)
    pair_of(engine, talk)
    with session(engine) as opened:
        opened.exec(select(Conversation)).one().deleted_at = opened.get_one(
            Turn, talk.turn
        ).created_at
    assert Booth(engine, talk.person).next() is None


@pytest.mark.parametrize(
    ("readers", "seen"), [(["everyone"], True), (["board"], False), ([], False)]
)
def test_anothers_pair_shows_only_passages_the_voter_may_read(
    engine: Engine, readers: list[str], seen: bool
) -> None:
    talk = make_talk(engine, kind="simulated")
    with session(engine) as opened:
        source = DataSource(name="handbook", plugin="markdown_folder")
        opened.add(source)
        opened.flush()
        document = Document(
            source_id=source.id,
            external_id="a",
            title="Leave",
            text="25",
            readers=readers,
            content_hash="1",
        )
        opened.add(document)
        opened.flush()
        if readers:
            opened.add(Passage(id="p1", document_id=document.id, position=0, heading="", text="25"))
    pair_of(engine, talk)
    assert (somebody(engine).turn() == talk.turn) is seen


def test_pairs_that_one_may_not_see_neither_count_nor_stand_before_others(engine: Engine) -> None:
    for _ in range(25):
        pair_of(engine, make_talk(engine))
    for kind in ("person", "simulated"):
        secret = pair_of(engine, without_passages(engine, make_talk(engine, kind=kind)))
        with session(engine) as opened:
            opened.get_one(Turn, secret).restricted = True
    fitting = {pair_of(engine, without_passages(engine, make_talk(engine))) for _ in range(5)}
    booth, seen = somebody(engine, settings=SHARED, reviews=True), set()
    with session(engine) as opened:
        assert waiting_for(opened, booth.voter, SHARED, 100) == 5
    for _ in fitting:
        offer = booth.next()
        assert offer is not None
        seen.add(booth.turn_of(offer))
        booth.vote(offer)
    assert seen == fitting
    assert booth.next() is None


def test_only_so_many_pairs_of_a_pool_are_looked_at_and_ones_own_come_all_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voting_queue, "MOST_LOOKED_AT", 2)
    for _ in range(3):
        pair_of(engine, make_talk(engine))
    pair_of(engine, without_passages(engine, make_talk(engine)))
    mine = make_talk(engine)
    own = pair_of(engine, mine)
    booth = Booth(engine, mine.person, SHARED, reviews=True)
    assert booth.turn() == own
    with session(engine) as opened:
        assert waiting_for(opened, booth.voter, SHARED, 100) == 1


def test_an_offer_tells_nothing_of_who_wrote_what(engine: Engine) -> None:
    simulated(engine)
    offer = somebody(engine).next()
    assert offer is not None
    assert set(OfferedAnswers.__slots__) == {
        "id",
        "question",
        "history",
        "passages",
        "answer_a",
        "answer_b",
    }
    assert {offer.answer_a, offer.answer_b} == {"There are 25.", "Ask somebody else."}


def test_the_least_certain_pair_comes_first_then_the_one_with_fewest_votes(
    engine: Engine, clock: Clock
) -> None:
    turns = [simulated(engine, f"Question {number}?") for number in range(4)]
    with session(engine) as opened:
        note_spreads(opened, {turns[2]: 1.5, turns[1]: 0.4})
        opened.get_one(VotePair, turns[0]).votes = 1
        opened.get_one(VotePair, turns[0]).wanted = 2
    booth, order = somebody(engine), []
    for _ in turns:
        offer = booth.next()
        assert offer is not None
        order.append(booth.turn_of(offer))
        booth.vote(offer)
    assert order == [turns[2], turns[1], turns[3], turns[0]]
    assert booth.next() is None


def test_a_pair_is_lent_to_one_person_at_a_time(engine: Engine, clock: Clock) -> None:
    turn = simulated(engine)
    first, second = somebody(engine), somebody(engine)
    assert first.turn() == turn
    assert second.turn() is None
    assert first.turn() == turn
    clock.on(301)
    assert second.turn() == turn


def test_a_second_vote_is_asked_for_only_where_overlap_is_wanted(engine: Engine) -> None:
    once, twice = simulated(engine), simulated(engine, wanted=2)
    one, other = somebody(engine), somebody(engine)
    for _ in range(2):
        offer = one.next()
        assert offer is not None
        one.vote(offer)
    assert other.turn() == twice
    with session(engine) as opened:
        assert opened.get_one(VotePair, once).state == "done"


def test_sides_are_drawn_for_each_offer_and_the_vote_follows_the_answer(engine: Engine) -> None:
    firsts = set()
    for number in range(24):
        simulated(engine, f"Question {number}?")
    booth = somebody(engine)
    for _ in range(24):
        offer = booth.next()
        assert offer is not None
        firsts.add(offer.answer_a)
        row = booth.vote(offer, "A" if offer.answer_a == "There are 25." else "B")
        assert isinstance(row, Comparison)
        assert row.pairing == "queue"
        with session(engine) as opened:
            chosen = row.candidate_a_id if row.choice == "A" else row.candidate_b_id
            assert opened.get_one(Candidate, chosen).text == "There are 25."
    assert firsts == {"There are 25.", "Ask somebody else."}


def test_one_offer_takes_one_vote_of_the_one_it_was_made_to(engine: Engine) -> None:
    simulated(engine)
    booth, stranger = somebody(engine), somebody(engine)
    offer = booth.next()
    assert offer is not None
    with pytest.raises(NotFoundError):
        stranger.vote(offer)
    booth.vote(offer)
    with pytest.raises(ConflictError):
        booth.vote(offer)


def test_answers_that_are_the_same_or_unfinished_are_not_offered(engine: Engine) -> None:
    alike = without_passages(
        engine, make_talk(engine, answers=("The same.", "The same. "), kind="simulated")
    )
    cut = without_passages(engine, make_talk(engine, kind="simulated", finish_reason="cancelled"))
    for talk in (alike, cut):
        pair_of(engine, talk)
    assert somebody(engine).next() is None
    with session(engine) as opened:
        assert opened.get_one(VotePair, alike.turn).state == "unusable"


def golds(engine: Engine) -> None:
    with session(engine) as opened:
        for number in range(30):
            opened.add(
                GoldAnswer(
                    external_id=str(number),
                    question=f"What is rule {number}?",
                    answer=f"Rule {number}: so it says.",
                    content_hash="",
                )
            )


def test_a_gold_check_is_never_trained_on_and_counts_for_its_voter(
    engine: Engine, clock: Clock
) -> None:
    golds(engine)
    simulated(engine)
    booth = somebody(engine, settings=VotingSettings(check_share=0.5))
    right = wrong = 0
    for _ in range(60):
        offer = booth.next()
        assert offer is not None
        with session(engine) as opened:
            row = opened.get_one(VoteOffer, offer.id)
        if row.kind != "gold":
            continue
        named = offer.question.removeprefix("What is rule ").removesuffix("?")
        good = "A" if offer.answer_a.startswith(f"Rule {named}:") else "B"
        assert row.expected == good
        if right < 3:
            booth.vote(offer, good)
            right += 1
        elif not wrong:
            booth.vote(offer, {"A": "B", "B": "A"}[good])
            wrong += 1
    assert (right, wrong) == (3, 1)
    with session(engine) as opened:
        found = tally(opened, booth.person.id, "gold")
        assert (found.passed, found.of) == (3, 4)
        assert opened.exec(select(Comparison)).all() == []
        assert current_comparisons(opened) == []
        assert count_comparisons(opened) == 0
        [told] = checked_people(opened)
        assert (told.name, told.gold.passed, told.gold.of) == ("Eve", 3, 4)


def test_checks_keep_no_empty_queue_going(engine: Engine) -> None:
    golds(engine)
    booth = somebody(engine, settings=VotingSettings(check_share=0.5))
    assert [booth.next() for _ in range(10)] == [None] * 10


def test_a_repeat_has_its_sides_changed_and_shows_how_steady_one_is(
    engine: Engine, clock: Clock
) -> None:
    simulated(engine, "First?")
    booth = somebody(engine)
    offer = booth.next()
    assert offer is not None
    booth.vote(offer, "A")
    clock.on(3600)
    simulated(engine, "Second?")
    booth.settings = VotingSettings(check_share=0.5)
    repeat = None
    for _ in range(60):
        shown = booth.next()
        assert shown is not None
        if shown.question == "First?":
            repeat = shown
            break
    assert repeat is not None, "no repeat in 60 offers"
    assert (repeat.answer_a, repeat.answer_b) == (offer.answer_b, offer.answer_a)
    kept = booth.vote(repeat, "B")
    with session(engine) as opened:
        found = own_voting(opened, booth.person.id)
        assert (found.consistency.passed, found.consistency.of, found.total) == (1, 1, 1)
        withdraw_check(opened, booth.person, kept.id)
        assert tally(opened, booth.person.id, "repeat").of == 0
        assert len(current_comparisons(opened)) == 1


def test_agreement_counts_what_was_chosen_and_not_on_which_side(engine: Engine) -> None:
    turns = [simulated(engine, f"Question {n}?", wanted=3) for n in range(4)]
    me, other, third = (somebody(engine, name) for name in ("me", "other", "third"))
    plan = [
        (me, ["first", "first", "tie", "first"]),
        (other, ["first", "second", "tie", "skip"]),
        (third, ["second", "second", "skip", "skip"]),
    ]
    for booth, wanted in plan:
        for _ in turns:
            offer = booth.next()
            assert offer is not None
            want = wanted[int(offer.question.split()[1].rstrip("?"))]
            if want in ("first", "second"):
                side = "A" if (offer.answer_a == "There are 25.") == (want == "first") else "B"
                booth.vote(offer, side)
            else:
                booth.vote(offer, want)
    with session(engine) as opened:
        # Beside `other`: same, not, same. Beside `third`: not, not.
        mine = agreement(opened, me.person.id)
        assert (mine.passed, mine.of) == (2, 5)


def settings(**more: Any) -> Settings:
    return Settings(answers=AnswerSettings(compare_share=1.0), voting=VotingSettings(**more))


def test_a_day_asks_for_so_many_comparisons_and_no_more(engine: Engine, clock: Clock) -> None:
    talk = make_talk(engine)
    pair_of(engine, talk)
    person = talk.person.id
    assert draw(engine, settings(comparisons_a_day=2), person).compared
    assert not draw(engine, settings(comparisons_a_day=1), person).compared
    assert draw(engine, settings(comparisons_a_day=1), person, wanted=True).compared
    simulated(engine)
    booth = Booth(engine, talk.person)
    for _ in range(2):
        offer = booth.next()
        assert offer is not None
        booth.vote(offer)
    with session(engine) as opened:
        assert budget_left(opened, person, 5) == 2
        clock.on(24 * 3600)
        assert budget_left(opened, person, 5) == 5


def test_without_a_share_nothing_is_compared_by_chance(engine: Engine) -> None:
    talk = make_talk(engine)
    never = Settings(answers=AnswerSettings(compare_share=0.0))
    assert not any(draw(engine, never, talk.person.id).compared for _ in range(50))


def test_what_waits_is_counted_no_further_than_asked(engine: Engine) -> None:
    for number in range(5):
        simulated(engine, f"Question {number}?")
    booth = somebody(engine)
    with session(engine) as opened:
        assert waiting_for(opened, booth.voter, NO_CHECKS, 3) == 3
        assert waiting_for(opened, booth.voter, NO_CHECKS, 100) == 5
