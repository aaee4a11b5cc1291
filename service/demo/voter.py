"""The simulated voter: prefers answers that agree with the gold answer, then concise ones.

It stands in for people in the demonstration only; every row it makes is marked
`simulated`. It errs on purpose, as people do, and the same seed gives the same votes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import rlhf_engine

ERROR_SHARE = 0.10

LEAST_DIFFERENCE = 2.0
"""Answers whose chrF (0 to 100) differs by less agree with the gold answer equally well."""

MUCH_BETTER = 15.0
"""From this difference on the preference is strong."""

HOPELESS = 8.0
"""Two answers that both agree less than this are both bad."""


@dataclass(frozen=True, slots=True)
class Vote:
    """A choice between the answers of sides A and B."""

    choice: Literal["A", "B", "tie", "both_bad"]
    strength: Literal["slightly", "much"] | None = None


def vote(answers: Sequence[str], gold: str, seed: str) -> Vote:
    """Judge two answers, side A first, against the gold answer."""
    a, b = answers
    agreement = rlhf_engine.answer_chrf([a, b], [gold, gold])
    difference = agreement[0] - agreement[1]
    if a.strip() == b.strip():
        return Vote("tie")
    if max(agreement) < HOPELESS:
        return Vote("both_bad")
    a_is_better = _a_is_better(a, b, difference)
    errs = random.Random(seed).random() < ERROR_SHARE  # noqa: S311 - not a secret
    strength: Literal["slightly", "much"] = "much" if abs(difference) >= MUCH_BETTER else "slightly"
    return Vote("A" if a_is_better != errs else "B", strength)


def _a_is_better(a: str, b: str, difference: float) -> bool:
    if abs(difference) >= LEAST_DIFFERENCE:
        return difference > 0
    if len(a.split()) != len(b.split()):
        return len(a.split()) < len(b.split())
    return difference >= 0
