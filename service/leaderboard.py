"""The leaderboard: which policy version people prefer, and how sure that is.

It rests on the comparisons in force (not replaced, skipped or withdrawn) by raters who could not
know the versions. Hidden checks are no comparisons and never count. The votes are counted by
SQL, so that 100,000 of them are some hundred rows here; rating_math.py does the arithmetic. A board
is kept until a vote comes, another version goes live, or the day changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Engine, Integer, cast
from sqlalchemy import select as select_columns
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select

from service import policies, rating_math
from service.database import session
from service.rating_math import Estimates, Share, Votes
from service.refreshed import PATIENCE_S, Refreshed
from service.tables import Candidate, Comparison, PolicyVersion, now

SCORES = {"A": 1.0, "B": 0.0, "tie": 0.5, "both_bad": 0.5}
"""What each choice is worth for the answer shown first; two bad answers are a tie."""

PERIODS_DAYS = (7, 30, 90)
LENGTH_STEPS = 20
"""Length differences are counted in steps of 1/20, which a rating does not notice."""

POINTS_EVEN = 1000.0
POINTS_PER_LOG_ODDS = 400 / math.log(10)
"""The scale of chess: 400 points more win ten times as often as they lose."""

_Counted = tuple[str, str, str, int, int]


@dataclass(frozen=True, slots=True)
class Standing:
    """One version on the board. `rank` counts the versions that are stronger beyond their
    intervals. `share` is the expected share of comparisons won against the reference version, a
    tie counting half; `at_equal_length` the same if both answers were equally long. `points` are
    `share` on the scale of chess, 1000 on average."""

    version: int
    version_id: str
    votes: int
    wins: int
    losses: int
    ties: int
    rank: int
    points: tuple[float, float, float]
    share: tuple[float, float, float]
    rank_at_equal_length: int
    at_equal_length: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Board:
    """The standings, the strongest first. `reference` is the version that shares are told against:
    the live one where it was compared. `apart` are versions that no chain of comparisons joins
    to it. `length_effect` is the chance that the answer of two equal versions is chosen that is
    twice as long as the other."""

    reference: int | None
    standings: list[Standing]
    apart: list[int]
    votes: int
    same_version: int
    side_bias: Share | None
    length_effect: float | None
    made_at: datetime


class Leaderboards:
    """The boards computed lately. After a vote the last board is told until the next is there."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._boards: Refreshed[tuple[bool, int | None], Board]
        self._boards = Refreshed("leaderboard", patience_s)

    def board(self, database: Engine, simulated: bool, days: int | None) -> Board:
        """The board of people's votes, or of simulated raters' alone; of the last `days` days, or
        of all time. The first one takes seconds where there are many votes; call it in a thread."""

        def make() -> Board:
            with session(database) as opened:
                return make_board(opened, simulated, days)

        with session(database) as opened:
            live = policies.live_version(opened).id
            stamp = (newest_vote(opened), live, now().date().isoformat())
        return self._boards.value((simulated, days), stamp, make)


def newest_vote(session: Session) -> tuple[int, datetime | None]:
    """What changes with every vote: how many rows there are (none is ever removed), and when the
    newest was given."""
    statement = select(func.count(), func.max(Comparison.created_at)).select_from(Comparison)
    count, newest = session.exec(statement).one()
    return count, newest


def make_board(session: Session, simulated: bool, days: int | None) -> Board:
    """Count the votes and rate the versions; computed anew at each call."""
    since = now() - timedelta(days=days) if days else None
    counted = count_votes(session, simulated, since)
    ids = sorted({row[0] for row in counted} | {row[1] for row in counted})
    votes, versions = _as_votes(counted, ids), _versions(session, ids)
    between = votes.between_versions()
    total, bias = int(votes.count.sum()), rating_math.first_place_share(votes)
    same = total - int(between.count.sum())
    if len(between.count) == 0:
        return Board(None, [], [], total, same, bias, None, now())
    reference = _reference(between, ids, policies.live_version(session).id)
    joined = rating_math.compared_with(votes, reference, len(ids))
    standings, effect = _rate(
        votes.within(joined),
        int(np.searchsorted(joined, reference)),
        [versions[at] for at in joined],
    )
    compared = np.unique([between.first, between.second])
    apart = [versions[at].number for at in np.setdiff1d(compared, joined)]
    number = versions[reference].number
    return Board(number, standings, sorted(apart), total, same, bias, effect, now())


def count_votes(session: Session, simulated: bool, since: datetime | None) -> list[_Counted]:
    """How many votes there are of each first version, second version, choice and length step."""
    version_a, length_a = _shown(
        Comparison.candidate_a_id, Comparison.version_a_id, Comparison.length_a
    )
    version_b, length_b = _shown(
        Comparison.candidate_b_id, Comparison.version_b_id, Comparison.length_b
    )
    both = func.nullif(length_a + length_b, 0)
    step = func.round(1.0 * LENGTH_STEPS * (length_a - length_b) / both)
    # A set: with SQLite's statistics of a column of nulls, a join reads all rows for each.
    replaced = select(Comparison.replaces_id).where(col(Comparison.replaces_id).is_not(None))
    query = (
        select_columns(
            version_a.label("first"),
            version_b.label("second"),
            col(Comparison.choice),
            func.coalesce(cast(step, Integer), 0).label("step"),
            func.count(),
        )
        .where(
            col(Comparison.id).not_in(replaced),
            col(Comparison.choice).in_(SCORES),
            col(Comparison.blind).is_(True),
            col(Comparison.simulated).is_(simulated),
        )
        .group_by("first", "second", col(Comparison.choice), "step")
    )
    if since is not None:
        query = query.where(col(Comparison.created_at) >= since)
    return [(a, b, choice, step, count) for a, b, choice, step, count in session.execute(query)]


def _shown(candidate: Any, version: Any, length: Any) -> tuple[Any, Any]:
    """The version and the length of an answer that was shown; from the answer itself, and its
    length in characters, where the vote is from before they were kept with it."""
    row = aliased(Candidate)
    its = select(row.version_id).where(col(row.id) == col(candidate)).scalar_subquery()
    characters = select(func.length(row.text)).where(col(row.id) == col(candidate))
    return func.coalesce(col(version), its), func.coalesce(
        col(length), characters.scalar_subquery()
    )


def _as_votes(counted: list[_Counted], ids: list[str]) -> Votes:
    places = {version_id: place for place, version_id in enumerate(ids)}
    return Votes(
        first=np.array([places[row[0]] for row in counted], dtype=np.int64),
        second=np.array([places[row[1]] for row in counted], dtype=np.int64),
        score=np.array([SCORES[row[2]] for row in counted], dtype=np.float64),
        length=np.array([row[3] / LENGTH_STEPS for row in counted], dtype=np.float64),
        count=np.array([row[4] for row in counted], dtype=np.int64),
    )


def _versions(session: Session, ids: list[str]) -> list[PolicyVersion]:
    found = session.exec(select(PolicyVersion).where(col(PolicyVersion.id).in_(ids)))
    by_id = {version.id: version for version in found}
    return [by_id[version_id] for version_id in ids]


def _reference(between: Votes, ids: list[str], live: str) -> int:
    """The live version where it was compared, else the one with the most votes."""
    votes = np.bincount(between.first, between.count, len(ids))
    votes += np.bincount(between.second, between.count, len(ids))
    if live in ids and votes[ids.index(live)]:
        return ids.index(live)
    return int(votes.argmax())


def _rate(
    votes: Votes, reference: int, versions: list[PolicyVersion]
) -> tuple[list[Standing], float]:
    """The standings of versions that are joined by comparisons, and the effect of length."""
    count = len(versions)
    plain = rating_math.bradley_terry(votes, reference, count)
    controlled, effect = rating_math.at_equal_length(votes, reference, count)
    ranks, ranks_controlled = rating_math.ranks(plain), rating_math.ranks(controlled)
    wins, losses, ties = rating_math.tally(votes.between_versions(), count)
    standings = [
        Standing(
            version=version.number,
            version_id=version.id,
            votes=wins[at] + losses[at] + ties[at],
            wins=wins[at],
            losses=losses[at],
            ties=ties[at],
            rank=ranks[at],
            points=_points(plain, at),
            share=_share(plain, at),
            rank_at_equal_length=ranks_controlled[at],
            at_equal_length=_share(controlled, at),
        )
        for at, version in enumerate(versions)
    ]
    twice_as_long = 1 / (1 + math.exp(-effect / 3))
    return sorted(standings, key=lambda row: (-row.points[0], row.version)), twice_as_long


def _points(estimates: Estimates, at: int) -> tuple[float, float, float]:
    ends = (estimates.strength, estimates.strength_low, estimates.strength_high)
    value, low, high = (POINTS_EVEN + POINTS_PER_LOG_ODDS * float(end[at]) for end in ends)
    return value, low, high


def _share(estimates: Estimates, at: int) -> tuple[float, float, float]:
    return (
        float(estimates.share[at]),
        float(estimates.share_low[at]),
        float(estimates.share_high[at]),
    )
