"""Ratings against numbers worked by hand, and against voters whose strengths are known."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import pytest

from service import rating_math
from service.rating_math import Floats, Votes


def votes(*cells: tuple[int, int, float, float, int]) -> Votes:
    """Votes from (first, second, score, length, count)."""
    first, second, score, length, count = (np.array(column) for column in zip(*cells, strict=True))
    return Votes(first, second, score.astype(float), length.astype(float), count)


def simulated(
    strengths: Floats,
    count: int,
    seed: int,
    *,
    tie_share: float = 0.4,
    length_effect: float = 0.0,
    wordiness: Sequence[float] | None = None,
) -> Votes:
    """Voters who choose i over j with chance s(x_i - x_j + length_effect * length), of which up to
    `tie_share` become ties without changing the expected score."""
    generator = np.random.default_rng(seed)
    versions = len(strengths)
    first = generator.integers(0, versions, count)
    second = (first + generator.integers(1, versions, count)) % versions
    longer = np.zeros(versions) if wordiness is None else np.array(wordiness)
    length = generator.normal(0, 0.2, count) + longer[first] - longer[second]
    length = np.round(20 * length.clip(-1, 1)) / 20
    logits = strengths[first] - strengths[second] + length_effect * length
    chance = 1 / (1 + np.exp(-logits))
    tie = 2 * tie_share * chance * (1 - chance)
    drawn = generator.random(count)
    score = np.where(drawn < chance - tie / 2, 1.0, np.where(drawn < chance + tie / 2, 0.5, 0.0))
    cells, counts = np.unique(np.stack([first, second, score, length]), axis=1, return_counts=True)
    return Votes(cells[0].astype(int), cells[1].astype(int), cells[2], cells[3], counts)


def shares_against(strengths: Floats, reference: int) -> Floats:
    shares: Floats = 1 / (1 + np.exp(strengths[reference] - strengths))
    return shares


def test_two_versions_are_rated_as_by_hand() -> None:
    """30 wins, 10 losses, 8 ties and the one tie added: (30 + 4 + 0.5) : (10 + 4 + 0.5)."""
    cells = votes(
        (0, 1, 1.0, 0.0, 20), (1, 0, 0.0, 0.0, 10), (0, 1, 0.0, 0.0, 10), (1, 0, 0.5, 0.0, 8)
    )
    estimates = rating_math.bradley_terry(cells, reference=1, versions=2)
    odds = 34.5 / 14.5
    assert estimates.share[0] == pytest.approx(odds / (1 + odds), abs=1e-6)
    assert estimates.share[1] == 0.5
    assert estimates.strength[0] - estimates.strength[1] == pytest.approx(math.log(odds), abs=1e-5)
    assert estimates.strength.sum() == pytest.approx(0, abs=1e-9)
    assert rating_math.tally(cells, 2) == ([30, 10], [10, 30], [8, 8])


def test_the_interval_of_two_versions_is_that_of_the_mean_score() -> None:
    """With two versions a bootstrap round is a mean of scores, so the interval is known:
    0.75 +- 1.96 * sqrt(0.75 * 0.25 / 400) without ties."""
    cells = votes((0, 1, 1.0, 0.0, 300), (0, 1, 0.0, 0.0, 100))
    estimates = rating_math.bradley_terry(cells, reference=1, versions=2)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert estimates.share_low[0] == pytest.approx(0.75 - half, abs=0.005)
    assert estimates.share_high[0] == pytest.approx(0.75 + half, abs=0.005)
    assert estimates.share_low[1] == estimates.share_high[1] == 0.5


def test_a_third_version_is_rated_through_a_common_rival() -> None:
    """0 beats 1 three to one, 1 beats 2 three to one: 0 beats 2 nine to one, nearly."""
    cells = votes(
        (0, 1, 1.0, 0.0, 3000),
        (0, 1, 0.0, 0.0, 1000),
        (1, 2, 1.0, 0.0, 3000),
        (1, 2, 0.0, 0.0, 1000),
    )
    estimates = rating_math.bradley_terry(cells, reference=2, versions=3)
    assert estimates.share[0] == pytest.approx(0.9, abs=0.001)
    assert estimates.share[1] == pytest.approx(0.75, abs=0.001)
    assert rating_math.ranks(estimates) == [1, 2, 3]


def test_a_version_that_won_all_its_comparisons_is_not_infinitely_strong() -> None:
    estimates = rating_math.bradley_terry(votes((0, 1, 1.0, 0.0, 4)), reference=1, versions=2)
    assert estimates.share[0] == pytest.approx(4.5 / 5, abs=1e-6)
    assert estimates.share_high[0] < 1
    controlled, _ = rating_math.at_equal_length(votes((0, 1, 1.0, 0.5, 4)), 1, 2)
    assert 0.5 < controlled.share[0] < 1


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    covered = []
    for seed in range(60):
        strengths = np.random.default_rng(1000 + seed).normal(0, 0.6, 4)
        strengths -= strengths.mean()
        estimates = rating_math.bradley_terry(simulated(strengths, 800, seed), 0, 4, rounds=200)
        inside = (estimates.strength_low <= strengths) & (strengths <= estimates.strength_high)
        truth = shares_against(strengths, 0)
        against = (estimates.share_low <= truth) & (truth <= estimates.share_high)
        covered += [*inside, *against[1:]]
    assert 0.89 <= np.mean(covered) <= 0.99


def test_length_control_takes_away_what_length_alone_gains() -> None:
    """The weaker version writes longer answers, and voters like length: it leads by votes, and
    not at equal length. Intervals hold the true shares, and the effect is found."""
    strengths = np.array([0.3, 0.0, -0.3])
    covered, effects = [], []
    for seed in range(60):
        cells = simulated(strengths, 1200, seed, length_effect=3.0, wordiness=(-0.15, 0.0, 0.15))
        plain = rating_math.bradley_terry(cells, 0, 3, rounds=100)
        controlled, effect = rating_math.at_equal_length(cells, 0, 3)
        truth = shares_against(strengths, 0)
        covered += list(((controlled.share_low <= truth) & (truth <= controlled.share_high))[1:])
        effects.append(effect)
        assert plain.strength[2] > plain.strength[0]
        assert controlled.strength[0] > controlled.strength[2]
    assert 0.89 <= np.mean(covered) <= 0.99
    assert np.mean(effects) == pytest.approx(3.0, abs=0.1)


def test_without_an_effect_of_length_both_views_agree() -> None:
    strengths = np.array([0.5, 0.0, -0.5])
    cells = simulated(strengths, 20_000, 1)
    plain = rating_math.bradley_terry(cells, 0, 3, rounds=100)
    controlled, effect = rating_math.at_equal_length(cells, 0, 3)
    assert controlled.share == pytest.approx(plain.share, abs=0.005)
    assert effect == pytest.approx(0, abs=0.15)


def test_versions_without_a_chain_of_comparisons_are_apart() -> None:
    cells = votes(
        (0, 1, 1.0, 0.0, 5), (1, 2, 0.5, 0.0, 5), (3, 4, 1.0, 0.0, 5), (5, 5, 1.0, 0.0, 2)
    )
    assert rating_math.compared_with(cells, 1, 6).tolist() == [0, 1, 2]
    assert rating_math.compared_with(cells, 4, 6).tolist() == [3, 4]
    kept = cells.within(np.array([3, 4]))
    assert (kept.first.tolist(), kept.second.tolist(), kept.count.tolist()) == ([0], [1], [5])


def test_the_first_places_share_has_wilsons_interval() -> None:
    """60 of 100: by Wilson's formula 0.5020 to 0.6906."""
    share = rating_math.share_of(60, 100)
    assert share is not None
    assert (share.value, share.votes) == (0.6, 100)
    assert share.low == pytest.approx(0.5020, abs=1e-4)
    assert share.high == pytest.approx(0.6906, abs=1e-4)
    assert share.is_alarming
    assert rating_math.share_of(0, 0) is None


@pytest.mark.parametrize(
    ("first", "of", "alarming"),
    [
        (60, 100, True),
        (58, 100, False),
        (5400, 10_000, False),
        (44, 100, False),
        (4400, 10_000, True),
    ],
)
def test_side_bias_alarms_beyond_55_to_45_where_chance_is_ruled_out(
    first: int, of: int, alarming: bool
) -> None:
    cells = votes((0, 1, 1.0, 0.0, first), (1, 1, 0.0, 0.0, of - first), (0, 1, 0.5, 0.0, 50))
    share = rating_math.first_place_share(cells)
    assert share is not None
    assert share.votes == of
    assert share.is_alarming is alarming


def test_ten_thousand_votes_and_a_thousand_rounds_take_two_seconds_at_most() -> None:
    strengths = np.random.default_rng(5).normal(0, 0.5, 12)
    cells = simulated(strengths, 10_000, 5)
    rating_math.bradley_terry(cells, 0, 12, rounds=1)
    began = time.process_time()
    rating_math.bradley_terry(cells, 0, 12)
    rating_math.at_equal_length(cells, 0, 12)
    assert time.process_time() - began < 2
