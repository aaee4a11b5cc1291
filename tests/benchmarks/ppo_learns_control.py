"""How often one policy's answers are preferred to another's, were they of equal length.

Length-controlled win rate by logistic regression, as in AlpacaEval 2 (Dubois et al. 2024,
arXiv 2404.04475, section 3): logit P(win) = a + b tanh(d / deviation of d), with d the difference
in length in words; the controlled rate is that at d = 0. Intervals come from a bootstrap that draws
seeds, and prompts within, since answers to one prompt are no independent evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_engine.statistics import Interval

Array = NDArray[np.float64]
RIDGE = 0.05
"""Keeps the coefficients finite where one side wins everything; about a tenth of a vote."""
STEPS = 20


@dataclass(frozen=True, slots=True)
class Match:
    """One answer against another: 1 won, 0 lost, 0.5 a tie; `longer` is by how many words."""

    seed: int
    prompt: str
    won: float
    longer: float


@dataclass(frozen=True, slots=True)
class WinRate:
    """The plain and the length-controlled rate, with their 95% intervals."""

    plain: Interval
    controlled: Interval
    longer: float


def win_rate(matches: Sequence[Match], rounds: int = 1000, seed: int = 17) -> WinRate:
    """Both rates over all matches."""
    won = np.array([each.won for each in matches])
    longer = np.array([each.longer for each in matches])
    drawn = [_draw(matches, generator) for generator in _generators(rounds, seed)]
    plain = [float(won[rows].mean()) for rows in drawn]
    controlled = [controlled_rate(won[rows], longer[rows]) for rows in drawn]
    return WinRate(
        _interval(float(won.mean()), plain),
        _interval(controlled_rate(won, longer), controlled),
        float(longer.mean()),
    )


def controlled_rate(won: Array, longer: Array) -> float:
    """P(win) at equal length: won [n] in 0 to 1, longer [n] in words. Newton's method."""
    spread = float(longer.std())
    scaled = np.tanh(longer / spread) if spread > 0 else np.zeros_like(longer)
    rows = np.stack([np.ones_like(scaled), scaled], axis=1)
    found = np.zeros(2)
    for _ in range(STEPS):
        rate = 1 / (1 + np.exp(-rows @ found))
        slope = rows.T @ (won - rate) - RIDGE * found
        bend = (rows * (rate * (1 - rate))[:, None]).T @ rows + RIDGE * np.eye(2)
        found = found + np.clip(np.linalg.solve(bend, slope), -2, 2)
    return float(1 / (1 + np.exp(-found[0])))


def _draw(matches: Sequence[Match], drawn: np.random.Generator) -> list[int]:
    """Rows of a resample: seeds with replacement, then prompts of each."""
    cells: dict[int, dict[str, list[int]]] = {}
    for at, each in enumerate(matches):
        cells.setdefault(each.seed, {}).setdefault(each.prompt, []).append(at)
    seeds, rows = list(cells), []
    for number in drawn.integers(len(seeds), size=len(seeds)):
        prompts = list(cells[seeds[number]].values())
        for prompt in drawn.integers(len(prompts), size=len(prompts)):
            rows += prompts[prompt]
    return rows


def _generators(rounds: int, seed: int) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, number)) for number in range(rounds)]


def _interval(value: float, drawn: Sequence[float]) -> Interval:
    lower, upper = np.percentile(drawn, (2.5, 97.5))
    return Interval(value, float(lower), float(upper))
