"""What becomes of votes: merged, weighed, capped, and never a thumb across two questions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_engine.plan import RewardPlan
from rlhf_engine.preferences import gather_pairs
from rlhf_engine.records import Comparison, Outcome, Prompt, Thumb
from rlhf_engine.votes import distinct, estimated_noise, rater_noise, rater_scales

PLAN = RewardPlan(label_noise=0.1, margin_slightly=0.0, margin_unsaid=0.25, margin_much=0.5)


def vote(
    rater: str = "ada",
    outcome: Outcome = "a",
    question: str = "Where is it?",
    answers: tuple[str, str] = ("Here.", "There."),
    rated_at: str = "",
    **more: object,
) -> Comparison:
    prompt = Prompt(f"{rater}-{question}", question)
    item = Comparison("c", prompt, *answers, outcome, rater=rater, rated_at=rated_at)
    return replace(item, **more)  # type: ignore[arg-type]


def thumb(answer: str, up: bool, rater: str = "ada", question: str = "Where is it?") -> Thumb:
    return Thumb(Prompt("t", question), answer, up, rater)


def test_one_vote_is_a_pair_with_the_share_of_mistakes_left_open() -> None:
    [pair] = gather_pairs([vote(outcome="b", strength="much")], [], PLAN).pairs
    assert (pair.chosen, pair.rejected, pair.kind) == ("There.", "Here.", "votes")
    assert pair.target == pytest.approx(0.9)
    assert (pair.margin, pair.weight) == (0.5, 1.0)


def test_a_tie_is_a_soft_target_and_both_bad_says_nothing_of_which_is_better() -> None:
    found = gather_pairs([vote(outcome="tie"), vote("bob", "both_bad")], [], PLAN)
    tie, bad = found.pairs
    assert (tie.target, tie.margin, tie.kind) == (0.5, 0.0, "votes")
    assert (bad.target, bad.kind) == (0.5, "both_bad")
    assert (found.figures["ties"], found.figures["both_bad"]) == (1, 1)


def test_votes_on_the_same_answers_become_one_pair_whichever_was_shown_first() -> None:
    swapped = vote("bob", "b", answers=("There.", "Here."))
    [pair] = gather_pairs([vote("ada"), swapped], [], replace(PLAN, label_noise=0.2)).pairs
    # Two votes that agree raise the estimate of the noise's absence a little; Bayes by hand.
    votes = [vote("ada"), swapped]
    noise = rater_noise(votes, estimated_noise(votes, 0.2))["ada"]
    assert 0.15 < noise < 0.2
    assert pair.chosen == "Here."
    assert pair.target == pytest.approx((1 - noise) ** 2 / ((1 - noise) ** 2 + noise**2))


def test_votes_against_each_other_cancel_and_carry_no_margin() -> None:
    [pair] = gather_pairs([vote("ada", "a"), vote("bob", "b")], [], PLAN).pairs
    assert (pair.target, pair.margin) == (0.5, 0.0)
    [pair] = gather_pairs([vote("ada", "b"), vote("bob", "a"), vote("eve", "a")], [], PLAN).pairs
    assert pair.chosen == "Here."
    assert 0.5 < pair.target < 1
    assert pair.margin == 0.0


def test_a_raters_second_vote_on_the_same_answers_replaces_the_first() -> None:
    old = vote(outcome="a", rated_at="2026-01-01T00:00:00+00:00")
    new = vote(outcome="b", rated_at="2026-01-02T00:00:00+00:00")
    assert distinct([new, old]) == [new]
    found = gather_pairs([new, old], [], PLAN)
    assert found.figures["duplicates_dropped"] == 1
    assert found.pairs[0].chosen == "There."


def test_unnamed_raters_may_disagree_but_equal_rows_are_one() -> None:
    assert len(distinct([vote(""), vote(""), vote("", "b")])) == 2


def test_the_same_question_with_other_passages_is_another_pair() -> None:
    other = vote(prompt=Prompt("p", "Where is it?", history=()), answers=("Here.", "Elsewhere."))
    assert len(gather_pairs([vote(), other], [], PLAN).pairs) == 2


def test_only_the_training_side_is_learnt_from() -> None:
    held_out = vote(prompt=Prompt("p", "Where is it?", split="held_out"))
    assert gather_pairs([held_out], [], PLAN).pairs == ()


def test_a_loud_rater_is_capped_to_the_share_worked_out_by_hand() -> None:
    votes = ["loud"] * 50 + [f"r{n}" for n in range(10) for _ in range(2)]
    scales = rater_scales(votes, 0.2)
    # The ten others weigh 20, so the loud one may weigh 5: 5 / 25 = 0.2.
    assert scales["loud"] == pytest.approx(5 / 50)
    assert scales["r3"] == 1.0


def test_few_raters_are_capped_at_twice_an_equal_share() -> None:
    assert rater_scales(["a"] * 9 + ["b"], 0.2) == {"a": 1.0, "b": 1.0}
    # Four raters: the share is 2/4, and 3 others weigh 3.
    assert rater_scales(["a"] * 9 + ["b", "c", "d"], 0.2)["a"] == pytest.approx(3 / 9)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.floats(0.01, 1))
def test_no_rater_weighs_more_than_the_cap_allows(counts: list[int], cap: float) -> None:
    raters = [f"r{at}" for at, count in enumerate(counts) for _ in range(count)]
    scales = rater_scales(raters, cap)
    weights = [count * scales[f"r{at}"] for at, count in enumerate(counts)]
    assert max(weights) <= max(cap, min(1, 2 / len(counts))) * sum(weights) * (1 + 1e-9)
    assert all(0 < scale <= 1 for scale in scales.values())


def test_noise_is_the_plans_without_overlap_and_follows_agreement_with_it() -> None:
    assert estimated_noise([vote("ada")], 0.1) == pytest.approx(0.1)
    pairs = [(f"Here {n}.", "There.") for n in range(200)]
    agreeing = [vote(r, answers=pair) for pair in pairs for r in ("ada", "bob")]
    assert estimated_noise(agreeing, 0.1) < 0.02
    opposed = [vote("ada", "a", answers=pair) for pair in pairs]
    opposed += [vote("bob", "b", answers=pair) for pair in pairs]
    assert estimated_noise(opposed, 0.1) == 0.45


def test_a_careless_raters_lone_vote_says_little_and_a_careful_ones_much() -> None:
    votes = []
    for n in range(60):
        answers = (f"Here {n}.", "There.")
        votes += [vote(name, "a", answers=answers) for name in ("ada", "bob", "eve")]
        # Mallory is right half of the time.
        halves: tuple[Outcome, Outcome] = ("a", "b")
        votes.append(vote("mallory", halves[n % 2], answers=answers))
    lone = [vote(name, question=f"Who asked {name}?") for name in ("ada", "mallory")]
    found = gather_pairs([*votes, *lone], [], PLAN)
    careful, careless = found.pairs[-2:]
    assert careful.target > 0.9
    assert careless.target < 0.65
    assert found.figures["largest_rater_noise"] > 0.35
    assert all(pair.target > 0.95 for pair in found.pairs[:60])


def test_a_raters_noise_by_hand() -> None:
    """Where e = 0 one agrees with the others just as often as one is right."""
    votes = [vote("ada", "a", answers=(f"{n}.", "There.")) for n in range(80)]
    votes += [vote("mallory", "b", answers=(f"{n}.", "There.")) for n in range(20)]
    votes += [vote("mallory", "a", answers=(f"{n}.", "There.")) for n in range(20, 80)]
    # 60 of 80 agree, and the prior adds 20 that do: 80 of 100.
    assert rater_noise(votes, 1e-9)["mallory"] == pytest.approx(0.2)


def test_thumbs_make_pairs_within_a_question_only() -> None:
    thumbs = [thumb("Here.", True), thumb("Nowhere.", False), thumb("Up.", True, question="Why?")]
    found = gather_pairs([vote(question="What?")], thumbs, PLAN)
    [pair] = [pair for pair in found.pairs if pair.kind == "thumbs"]
    assert (pair.chosen, pair.rejected) == ("Here.", "Nowhere.")
    assert found.figures["thumb_pairs"] == 1


def test_an_answer_with_as_many_thumbs_up_as_down_says_nothing() -> None:
    thumbs = [
        thumb("Here.", True, "ada"),
        thumb("Here.", False, "bob"),
        thumb("Nowhere.", False, "bob"),
    ]
    assert gather_pairs([vote(question="What?")], thumbs, PLAN).figures["thumb_pairs"] == 0


def test_a_changed_thumb_counts_once_and_a_compared_pair_not_again() -> None:
    changed = [
        replace(thumb("Here.", False), rated_at="2026-01-01"),
        replace(thumb("Here.", True), rated_at="2026-01-02"),
        thumb("There.", False),
    ]
    assert gather_pairs([vote(question="What?")], changed, PLAN).figures["thumb_pairs"] == 1
    assert gather_pairs([vote()], changed, PLAN).figures["thumb_pairs"] == 0


def test_thumbs_together_weigh_at_most_their_share() -> None:
    votes = [vote(f"r{n}", question=f"What about {n}?") for n in range(8)]
    thumbs = [thumb("Good.", True), *(thumb(f"Bad {n}.", False) for n in range(50))]
    found = gather_pairs(votes, thumbs, PLAN)
    weight = sum(pair.weight for pair in found.pairs if pair.kind == "thumbs")
    assert found.figures["thumb_pairs"] == 50
    assert weight / sum(pair.weight for pair in found.pairs) == pytest.approx(0.2)
