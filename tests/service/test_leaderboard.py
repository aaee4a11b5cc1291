"""Which votes the leaderboard counts, and that it is computed once; on both databases."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from service import leaderboard
from service.database import session
from service.leaderboard import Board, Leaderboards, make_board
from service.tables import Alias, Comparison, now
from tests.service.voted import make_versions, vote


def board(engine: Engine, *, simulated: bool = False, days: int | None = None) -> Board:
    with session(engine) as opened:
        return make_board(opened, simulated, days)


def many(first: int, second: int, a: int, b: int, even: int = 0) -> list[tuple[int, int, str]]:
    return [(first, second, "A")] * a + [(first, second, "B")] * b + [(first, second, "tie")] * even


def test_votes_become_standings_against_the_live_version(engine: Engine) -> None:
    make_versions(engine, 2, live=1)
    vote(engine, [*many(0, 1, 10, 30, 8), (0, 1, "both_bad")])
    made = board(engine)
    assert (made.reference, made.votes, made.same_version, made.apart) == (1, 49, 0, [])
    best, worst = made.standings
    assert (best.version, best.wins, best.losses, best.ties, best.votes) == (1, 30, 10, 9, 49)
    assert (worst.version, worst.wins, worst.losses, worst.ties) == (0, 10, 30, 9)
    assert best.share == (0.5, 0.5, 0.5)
    assert worst.share[0] == pytest.approx((10 + 5) / (40 + 10), abs=1e-6)
    assert worst.share[1] < worst.share[0] < worst.share[2]
    assert (best.rank, worst.rank) == (1, 2)
    assert best.points[0] + worst.points[0] == pytest.approx(2000)
    assert made.side_bias is not None
    assert (made.side_bias.value, made.side_bias.votes) == (0.25, 40)
    assert made.side_bias.is_alarming


def test_only_votes_in_force_count(engine: Engine) -> None:
    make_versions(engine, 2)
    vote(engine, many(1, 0, 6, 2), "a")
    vote(engine, [(1, 0, "skip"), (1, 0, "withdrawn")], "b")
    vote(engine, many(1, 0, 0, 9), "c", blind=False)
    vote(engine, many(1, 0, 0, 7), "d", simulated=True)
    with session(engine) as opened:
        for choice, replaced in (("B", "at0c"), ("withdrawn", "at1c")):
            old = opened.get_one(Comparison, replaced).model_dump(exclude={"id"})
            opened.add(Comparison(**old | {"choice": choice, "replaces_id": replaced}))
    standing = {row.version: row for row in board(engine).standings}[1]
    assert (standing.wins, standing.losses, standing.ties) == (4, 3, 0)
    apart = {row.version: row for row in board(engine, simulated=True).standings}[1]
    assert (apart.wins, apart.losses) == (0, 7)


def test_a_period_leaves_older_votes_out(engine: Engine) -> None:
    make_versions(engine, 2)
    vote(engine, many(1, 0, 5, 0), "old", created_at=now() - timedelta(days=20))
    vote(engine, many(1, 0, 0, 3), "new")
    assert [board(engine, days=days).votes for days in (7, 30, None)] == [3, 8, 8]


def test_votes_of_before_versions_and_lengths_were_kept_are_read_from_the_answers(
    engine: Engine,
) -> None:
    make_versions(engine, 2)
    nothing = {"version_a_id": None, "version_b_id": None, "length_a": None, "length_b": None}
    vote(engine, many(1, 0, 3, 1), "old", **nothing)
    vote(engine, many(1, 0, 3, 1), "new")
    with session(engine) as opened:
        counted = leaderboard.count_votes(opened, simulated=False, since=None)
    # (20 - 10) / 30 in steps of 1/20.
    assert sorted(counted) == [("v1", "v0", "A", 7, 6), ("v1", "v0", "B", 7, 2)]


def test_answers_of_one_version_tell_of_sides_and_not_of_strength(engine: Engine) -> None:
    make_versions(engine, 2)
    vote(engine, many(0, 0, 12, 4))
    made = board(engine)
    assert (made.reference, made.standings, made.votes, made.same_version) == (None, [], 16, 16)
    assert made.side_bias is not None
    assert made.side_bias.value == 0.75


def test_versions_that_nothing_joins_to_the_live_one_stand_apart(engine: Engine) -> None:
    make_versions(engine, 5, live=4)
    vote(engine, many(4, 3, 3, 3), "a")
    vote(engine, many(1, 0, 9, 1), "b")
    made = board(engine)
    assert made.reference == 4
    assert {row.version for row in made.standings} == {3, 4}
    assert made.apart == [0, 1]


def test_a_live_version_without_votes_leaves_the_reference_to_the_most_compared(
    engine: Engine,
) -> None:
    make_versions(engine, 4, live=3)
    vote(engine, [*many(1, 0, 5, 5), *many(2, 1, 5, 5)])
    assert board(engine).reference == 1


def test_without_votes_the_board_is_empty(engine: Engine) -> None:
    make_versions(engine, 1)
    made = board(engine)
    assert (made.standings, made.side_bias, made.votes) == ([], None, 0)


def test_a_board_is_computed_once_until_a_vote_comes_or_another_version_is_live(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_versions(engine, 2)
    vote(engine, many(1, 0, 3, 1), "a")
    made: Counter[bool] = Counter()

    def counted(opened: object, simulated: bool, days: int | None) -> Board:
        made[simulated] += 1
        return make_board(opened, simulated, days)  # type: ignore[arg-type]

    monkeypatch.setattr(leaderboard, "make_board", counted)
    boards = Leaderboards(patience_s=60)
    with ThreadPoolExecutor(4) as pool:
        same = [pool.submit(boards.board, engine, False, None) for _ in range(8)]
        assert len({id(future.result()) for future in same}) == 1
    boards.board(engine, True, None)
    assert made == {False: 1, True: 1}
    vote(engine, many(1, 0, 1, 0), "b")
    assert boards.board(engine, False, None).votes == 5
    with session(engine) as opened:
        opened.get_one(Alias, "live").version_id = "v1"
    assert boards.board(engine, False, None).reference == 1
    assert made[False] == 3
