"""How far people agree who compared the same two answers: Krippendorff's alpha."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select

from service.tables import Comparison

FEWEST_PAIRS = 30
"""With fewer, alpha says little; it is not told."""
MOST_PAIRS = 5_000
"""The newest pairs that are looked at."""
RESAMPLES = 1_000
COUNTED = ("A", "B", "tie", "both_bad")


@dataclass(frozen=True, slots=True)
class Agreement:
    """Alpha with its interval of 95%: 1 where all agree, 0 where they agree as by chance, and
    None where that cannot be told. `pairs` is how many pairs of answers two or more people
    compared; `sentence` says it in words."""

    pairs: int
    alpha: tuple[float, float, float] | None
    sentence: str


def agreement(session: Session, since: datetime, simulated: bool) -> Agreement:
    """Agreement in the comparisons in force that were given since a moment, skipped ones left
    out, a tie and two bad answers both being neither better."""
    pairs = _overlapping(session, since, simulated)
    count = len(pairs)
    if count < FEWEST_PAIRS:
        return Agreement(
            count,
            None,
            f"Too few to tell: {count} pairs of answers were compared by two or more people, "
            f"{FEWEST_PAIRS} are needed.",
        )
    if len({choice for choices in pairs for choice in choices}) == 1:
        return Agreement(count, None, f"Everybody chose the same way in all {count} pairs.")
    alpha = _alpha(pairs)
    return Agreement(
        count,
        alpha,
        f"Alpha is {alpha[0]:.2f} ({alpha[1]:.2f} to {alpha[2]:.2f}) over {count} pairs of answers "
        "that two or more people compared; 1 is full agreement, 0 is chance.",
    )


def _overlapping(session: Session, since: datetime, simulated: bool) -> list[list[float]]:
    """For each pair that several people compared, what each chose: 1, 0 or -1 for the answer
    with the smaller id, whatever side it stood on."""
    later = aliased(Comparison)
    in_force = (
        col(Comparison.created_at) >= since,
        col(Comparison.simulated).is_(simulated),
        col(Comparison.choice).in_(COUNTED),
        ~select(later.id).where(col(later.replaces_id) == col(Comparison.id)).exists(),
    )
    several = (
        select(Comparison.turn_id)
        .where(*in_force)
        .group_by(col(Comparison.turn_id))
        .having(func.count() > 1)
        .order_by(func.max(col(Comparison.created_at)).desc())
        .limit(MOST_PAIRS)
    )
    query = select(Comparison.candidate_a_id, Comparison.candidate_b_id, Comparison.choice).where(
        *in_force, col(Comparison.turn_id).in_(several)
    )
    found: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for first, second, choice in session.exec(query):
        worth = {"A": 1.0, "B": -1.0}.get(choice, 0.0)
        found[tuple(sorted((first, second)))].append(worth if first < second else -worth)
    return [choices for choices in found.values() if len(choices) > 1]


def _alpha(pairs: list[list[float]]) -> tuple[float, float, float]:
    import evalica  # noqa: PLC0415, RUF100 - brings pandas, which a start need not wait for

    table = _table(pairs)
    alpha = evalica.alpha(table, "ordinal").alpha
    ends = evalica.alpha_bootstrap(table, "ordinal", n_resamples=RESAMPLES, random_state=0)
    return float(alpha), float(ends.low), float(ends.high)


def _table(pairs: list[list[float]]) -> Any:
    """Votes by place (rows) and pair (columns): alpha does not depend on who gave which vote, so
    that no row a person is needed."""
    import pandas as pd  # type: ignore[import-untyped]  # noqa: PLC0415, RUF100 - as above

    most = max(map(len, pairs))
    padded = [choices + [float("nan")] * (most - len(choices)) for choices in pairs]
    return pd.DataFrame(padded).T
