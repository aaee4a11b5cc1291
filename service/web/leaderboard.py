"""The leaderboard over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from litestar import get
from litestar.params import FromQuery, QueryParameter

from service import leaderboard
from service.rating_math import EVEN, Share
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenPerson

Raters = Literal["people", "simulated"]


class Interval(msgspec.Struct):
    """A figure with the ends of its interval of 95%."""

    value: float
    low: float
    high: float


class Row(msgspec.Struct):
    """One version on the board. `share` is the expected share of comparisons that it wins against
    the reference version, a tie counting half, from 0 to 1; `at_equal_length` the same if both
    answers were always equally long. `points` tell the same on the scale of chess."""

    version: int
    version_id: str
    votes: int
    wins: int
    losses: int
    ties: int
    rank: int
    points: Interval
    share: Interval
    rank_at_equal_length: int
    at_equal_length: Interval


class SideBias(msgspec.Struct):
    """How often the answer shown first is chosen, of votes with a winner. `alarm` says what is
    wrong where the share lies beyond 45 to 55% and its interval leaves 50% out, else it is null."""

    first: Interval
    votes: int
    alarm: str | None


class Leaderboard(msgspec.Struct):
    """Which version people prefer. `reference` is the version that shares are told against;
    `apart` lists versions that no chain of comparisons joins to it. `votes` counts all votes in
    force, `same_version` those on two answers of one version. `length_effect` is how often an
    answer twice as long as the other would be chosen, of two equal versions."""

    raters: Raters
    days: int | None
    reference: int | None
    rows: list[Row]
    apart: list[int]
    votes: int
    same_version: int
    side_bias: SideBias | None
    length_effect: float | None
    made_at: datetime


@get(
    "/api/leaderboard",
    tags=["Policies"],
    security=needs("reviewer", "read"),
    sync_to_thread=True,
)
def show_leaderboard(
    reviewer: GivenPerson,  # noqa: ARG001 - for reviewers
    parts: GivenParts,
    raters: FromQuery[Raters] = "people",
    days: Annotated[int | None, QueryParameter(ge=1, le=3650)] = None,
) -> Leaderboard:
    """The leaderboard by people's votes, or by simulated raters' alone; of the last days, or of
    all time. Reviewers and up."""
    board = parts.leaderboards.board(parts.database, raters == "simulated", days)
    return Leaderboard(
        raters=raters,
        days=days,
        reference=board.reference,
        rows=[_row(standing) for standing in board.standings],
        apart=board.apart,
        votes=board.votes,
        same_version=board.same_version,
        side_bias=_bias(board.side_bias) if board.side_bias else None,
        length_effect=board.length_effect,
        made_at=board.made_at,
    )


def _row(standing: leaderboard.Standing) -> Row:
    return Row(
        version=standing.version,
        version_id=standing.version_id,
        votes=standing.votes,
        wins=standing.wins,
        losses=standing.losses,
        ties=standing.ties,
        rank=standing.rank,
        points=Interval(*standing.points),
        share=Interval(*standing.share),
        rank_at_equal_length=standing.rank_at_equal_length,
        at_equal_length=Interval(*standing.at_equal_length),
    )


def _bias(share: Share) -> SideBias:
    first = Interval(share.value, share.low, share.high)
    return SideBias(first, share.votes, _alarm(share) if share.is_alarming else None)


def _alarm(share: Share) -> str:
    which = "first" if share.value > EVEN else "second"
    chosen = max(share.value, 1 - share.value)
    return (
        f"The answer shown {which} is chosen in {chosen:.0%} of {share.votes} votes, more often "
        "than chance allows. Sides are drawn at random, so no version gains by it, but the votes "
        "say less than they should: ask voters to read both answers, and look at quick votes."
    )
