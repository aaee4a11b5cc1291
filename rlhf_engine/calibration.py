"""How far stated probabilities can be believed: calibration error, temperature scaling.

Legend: n pairs. A difference is the chosen answer's score less the rejected one's, so that
the reward model gives the vote the probability s(difference / temperature), s the logistic
function. Source: Guo et al. 2017, arXiv 1706.04599.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from rlhf_engine.statistics import Interval

Floats = NDArray[np.float64]

MOST_BINS = 10
PAIRS_A_BIN = 10
LARGEST_TEMPERATURE = 20.0


def calibration_error(differences: Sequence[float] | Floats, temperature: float = 1.0) -> float:
    """Expected calibration error of the predicted side, in 0 to 1; 0 for no pairs.

    Pairs are sorted by confidence into bins of equal size, at most ten and of at least ten
    pairs; each counts by how far its mean confidence is from its share of right sides. With
    few pairs the figure is too large by chance, so it is shown with its interval.
    """
    values = np.asarray(differences, dtype=float) / temperature
    if len(values) == 0:
        return 0.0
    confidence, right = expit(np.abs(values)), values > 0
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, max(1, min(MOST_BINS, len(values) // PAIRS_A_BIN)))
    gaps = [len(rows) * abs(confidence[rows].mean() - right[rows].mean()) for rows in bins]
    return float(sum(gaps) / len(values))


def fitted_temperature(differences: Sequence[float] | Floats) -> float:
    """The temperature under which the votes are likeliest, in 1/20 to 20.

    A standard normal prior on its logarithm counts as one pair, so that a handful of pairs
    that all came out right do not make the model certain. 1 for no pairs.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) == 0:
        return 1.0

    def cost(log_temperature: float) -> float:
        unlikely = np.logaddexp(0, -values / np.exp(log_temperature)).sum()
        return float(unlikely + log_temperature**2 / 2)

    bound = float(np.log(LARGEST_TEMPERATURE))
    return float(np.exp(minimize_scalar(cost, bounds=(-bound, bound), method="bounded").x))


def cross_fitted(differences: Sequence[float] | Floats, folds: Sequence[int]) -> Floats:
    """Differences over a temperature fitted on the pairs of the other fold (0 or 1), so that
    no pair is measured with a temperature it helped to choose."""
    values, sides = np.asarray(differences, dtype=float), np.asarray(folds, dtype=int)
    scaled = values.copy()
    for side in (0, 1):
        scaled[sides == side] /= fitted_temperature(values[sides != side])
    return scaled


def error_interval(
    differences: Sequence[float] | Floats, *, rounds: int = 500, seed: int = 17
) -> Interval:
    """Calibration error with its percentile bootstrap interval (95%) over pairs."""
    values = np.asarray(differences, dtype=float)
    whole = calibration_error(values)
    if len(values) < 2:
        return Interval(whole, 0.0, 1.0)
    rng = np.random.default_rng(seed)
    drawn = [calibration_error(rng.choice(values, len(values))) for _ in range(rounds)]
    lower, upper = np.quantile(drawn, (0.025, 0.975))
    return Interval(whole, float(lower), float(upper))
