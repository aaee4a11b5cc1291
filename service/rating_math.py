"""Strengths of policy versions from votes: Bradley-Terry with ties, side bias, answer lengths.

The chance that version i is chosen over version j is s(x_i - x_j), s the logistic function; x
are the versions' log strengths (Bradley and Terry 1952, doi.org/10.2307/2334029). A tie counts
as half a win for either side, so that the same number is also the expected score of i. One tie is
added between any two versions that were compared: without it a version that won all its few
comparisons would be infinitely strong. It weighs nothing once there are some dozens of votes.

Legend: c cells (votes that are alike, counted together), v versions, b bootstrap rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CONFIDENCE = 0.95
ROUNDS = 1000
SEED = 17
PRIOR_TIES = 1.0
"""Ties added between any two versions that were compared."""

LENGTH_EFFECT_SPREAD = 5.0
"""Standard deviation of the normal prior on the effect of length, in log odds; it only matters
where there are few votes."""

EVEN = 0.5
ALARM_FROM = 0.05
"""How far the first place's share may lie from one half before it is an alarm."""


@dataclass(frozen=True, slots=True)
class Votes:
    """Votes counted by cell.

    first, second: [c] the place, from 0, of the version that was shown first and second.
    score: [c] 1 where the first was chosen, 0 where the second was, 0.5 for a tie.
    length: [c] (length of the first - length of the second) / (sum of both), -1 to 1.
    count: [c] how many votes.
    """

    first: Integers
    second: Integers
    score: Floats
    length: Floats
    count: Integers

    def within(self, versions: Integers) -> Votes:
        """The votes on answers of these versions alone (sorted), which are renumbered from 0."""
        kept = self._kept(np.isin(self.first, versions) & np.isin(self.second, versions))
        first, second = (np.searchsorted(versions, each) for each in (kept.first, kept.second))
        return Votes(first, second, kept.score, kept.length, kept.count)

    def between_versions(self) -> Votes:
        """The votes on answers of two different versions."""
        return self._kept(self.first != self.second)

    def by_pair(self) -> Votes:
        """The same votes in fewer cells: lengths as if equal, the lower version always first."""
        turned = self.first > self.second
        cells = np.stack(
            [
                np.where(turned, self.second, self.first),
                np.where(turned, self.first, self.second),
                np.where(turned, 1 - self.score, self.score),
            ]
        )
        alike, places = np.unique(cells, axis=1, return_inverse=True)
        count = np.bincount(places.ravel(), self.count, alike.shape[1]).astype(np.int64)
        first, second = alike[:2].astype(np.int64)
        return Votes(first, second, alike[2], np.zeros(len(count)), count)

    def _kept(self, kept: NDArray[np.bool_]) -> Votes:
        return Votes(
            self.first[kept],
            self.second[kept],
            self.score[kept],
            self.length[kept],
            self.count[kept],
        )


@dataclass(frozen=True, slots=True)
class Estimates:
    """Log strengths [v] with their intervals, and of each version the expected score against the
    reference version. `low` and `high` are the ends of the interval of CONFIDENCE."""

    strength: Floats
    strength_low: Floats
    strength_high: Floats
    share: Floats
    share_low: Floats
    share_high: Floats


@dataclass(frozen=True, slots=True)
class Share:
    """A share of votes with its interval (Wilson); `votes` is how many it rests on."""

    value: float
    low: float
    high: float
    votes: int

    @property
    def is_alarming(self) -> bool:
        """Whether it lies beyond 45 to 55 percent and its interval leaves one half out."""
        far = abs(self.value - EVEN) > ALARM_FROM
        return far and not self.low <= EVEN <= self.high


def compared_with(votes: Votes, version: int, versions: int) -> Integers:
    """The versions that a chain of comparisons joins to this one, itself among them.

    Between others nothing can be said of who is stronger. `versions` is how many there are.
    """
    from scipy.sparse import coo_array  # noqa: PLC0415, RUF100 - slow to import
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415, RUF100 - as above

    between = votes.between_versions()
    places = (between.first, between.second)
    graph = coo_array((np.ones(len(between.first)), places), shape=(versions, versions))
    _, group = connected_components(graph, directed=False)
    return np.flatnonzero(group == group[version])


def bradley_terry(votes: Votes, reference: int, versions: int, rounds: int = ROUNDS) -> Estimates:
    """Strengths of versions that are all joined by comparisons, on average 0.

    Intervals are the percentiles of `rounds` bootstrap rounds. Drawing the votes anew is drawing
    how many fall into each cell, so that a round costs the same for any number of votes.
    """
    pairs = votes.between_versions().by_pair()
    between = _with_prior(pairs)
    prior = between.count[len(pairs.count) :]
    drawn = _drawn_counts(pairs.count, rounds)
    drawn = np.hstack([drawn, np.tile(prior, (rounds, 1))])
    fitted = _fitting(between, versions)
    strength = fitted(between.count)
    strengths = np.stack([fitted(counts) for counts in drawn])
    shares = _logistic(strengths - strengths[:, [reference]])
    return Estimates(
        strength,
        *_percentiles(strengths),
        _logistic(strength - strength[reference]),
        *_percentiles(shares),
    )


def at_equal_length(votes: Votes, reference: int, versions: int) -> tuple[Estimates, float]:
    """Strengths if both answers of every pair had been of the same length, and what length does.

    A logistic regression of each vote on the two versions and on the length difference of `Votes`
    (as "style control" does for chat arenas), so that a version gains nothing by mere length:
    s(x_i - x_j + effect * length). The effect is in log odds for a difference of 1. Intervals come
    from robust (Huber-White) standard errors, which hold although ties are counted as halves.
    The reference has no interval, since all strengths are told relative to it.
    """
    from scipy.optimize import minimize  # noqa: PLC0415, RUF100 - slow to import

    rows = _with_prior(votes)
    design, columns = _design(rows, reference, versions)
    penalty = np.zeros(design.shape[1])
    penalty[-1] = LENGTH_EFFECT_SPREAD**-2

    def loss(x: Floats) -> tuple[float, Floats]:
        logits = design @ x
        likelihood = rows.count * (np.logaddexp(0, logits) - rows.score * logits)
        slope = design.T @ (rows.count * (_logistic(logits) - rows.score)) + penalty * x
        return float(likelihood.sum() + (penalty * x * x).sum() / 2), slope

    def curvature(x: Floats) -> Floats:
        chance = _logistic(design @ x)
        weights = rows.count * chance * (1 - chance)
        curved: Floats = design.T @ (weights[:, None] * design) + np.diag(penalty)
        return curved

    start = np.zeros(design.shape[1])
    found = minimize(loss, start, jac=True, hess=curvature, method="trust-exact").x
    inverse = np.linalg.pinv(curvature(found))
    residual = rows.count * (rows.score - _logistic(design @ found)) ** 2
    covariance = inverse @ (design.T @ (residual[:, None] * design)) @ inverse
    error = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    strength, spread = np.zeros(versions), np.zeros(versions)
    strength[columns], spread[columns] = found[:-1], _normal_quantile() * error[:-1]
    low, high = strength - spread, strength + spread
    shares = [_logistic(values) for values in (strength, low, high)]
    return Estimates(strength, low, high, *shares), float(found[-1])


def tally(votes: Votes, versions: int) -> tuple[list[int], list[int], list[int]]:
    """How many votes each version won, lost and tied."""
    won = [
        np.bincount(votes.first, votes.count * (votes.score == score), versions)
        + np.bincount(votes.second, votes.count * (votes.score == 1 - score), versions)
        for score in (1.0, 0.0)
    ]
    tied = votes.count * (votes.score == EVEN)
    ties = np.bincount(votes.first, tied, versions) + np.bincount(votes.second, tied, versions)
    return won[0].astype(int).tolist(), won[1].astype(int).tolist(), ties.astype(int).tolist()


def first_place_share(votes: Votes) -> Share | None:
    """How often the answer shown first was chosen, of the votes with a winner; None without any."""
    wins = int(votes.count[votes.score == 1].sum())
    return share_of(wins, wins + int(votes.count[votes.score == 0].sum()))


def share_of(part: int, whole: int) -> Share | None:
    """A share with Wilson's interval (doi.org/10.1080/01621459.1927.10502953); None of nothing."""
    from scipy.stats import binomtest  # noqa: PLC0415, RUF100 - slow to import

    if whole == 0:
        return None
    interval = binomtest(part, whole).proportion_ci(CONFIDENCE, method="wilson")
    return Share(part / whole, float(interval.low), float(interval.high), whole)


def ranks(estimates: Estimates) -> list[int]:
    """Each version's place from 1: one more than how many are stronger beyond their intervals."""
    pairs = zip(estimates.strength_high, estimates.strength, strict=True)
    return [1 + int((estimates.strength_low > high).sum()) for high, _ in pairs]


def _with_prior(votes: Votes) -> Votes:
    """The votes, and after them PRIOR_TIES ties between any two versions among them."""
    different = votes.first != votes.second
    pairs = np.stack([votes.first[different], votes.second[different]])
    low, high = np.unique(np.sort(pairs, axis=0), axis=1)
    return Votes(
        np.concatenate([votes.first, low]),
        np.concatenate([votes.second, high]),
        np.concatenate([votes.score, np.full(len(low), EVEN)]),
        np.concatenate([votes.length, np.zeros(len(low))]),
        np.concatenate([votes.count, np.full(len(low), int(PRIOR_TIES))]),
    )


def _drawn_counts(count: Integers, rounds: int) -> Integers:
    """[b, c] how many votes fall into each cell when as many votes are drawn with replacement."""
    generator = np.random.default_rng(SEED)
    return generator.multinomial(count.sum(), count / count.sum(), size=rounds)


def _fitting(votes: Votes, versions: int) -> Callable[[Integers], Floats]:
    """From counts [c] of these cells to log strengths [v] of most likelihood, on average 0."""
    import evalica  # noqa: PLC0415, RUF100 - slow to import

    winners = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, EVEN: evalica.Winner.Draw}
    won = [winners[score] for score in votes.score.tolist()]
    first, second = votes.first.tolist(), votes.second.tolist()
    order = range(versions)

    def fitted(count: Integers) -> Floats:
        weights = count.astype(np.float64).tolist()
        scores = evalica.bradley_terry(first, second, won, weights=weights).scores
        strength: Floats = np.log(scores.reindex(order).to_numpy(dtype=np.float64))
        centred: Floats = strength - strength.mean()
        return centred

    return fitted


def _design(votes: Votes, reference: int, versions: int) -> tuple[Floats, Integers]:
    """[c, v] a row a cell: 1 for the first version, -1 for the second, and the length difference
    last; the reference has no column. Also which version each column but the last is."""
    cells = np.arange(len(votes.first))
    full = np.zeros((len(cells), versions))
    np.add.at(full, (cells, votes.first), 1.0)
    np.add.at(full, (cells, votes.second), -1.0)
    columns = np.delete(np.arange(versions), reference)
    return np.hstack([full[:, columns], votes.length[:, None]]), columns


def _percentiles(rounds: Floats) -> tuple[Floats, Floats]:
    """The ends of the interval of each column of [b, v]."""
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(rounds, [outside, 1 - outside], axis=0)
    return low, high


def _logistic(values: Floats) -> Floats:
    from scipy.special import expit  # noqa: PLC0415, RUF100 - slow to import

    result: Floats = expit(values)
    return result


def _normal_quantile() -> float:
    from scipy.stats import norm  # noqa: PLC0415, RUF100 - slow to import

    return float(norm.ppf((1 + CONFIDENCE) / 2))
