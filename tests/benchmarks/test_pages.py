"""The pages' benchmark at its smallest: every request is asked on what it wrote, and times count.

Times themselves are not judged here: other work on the machine would decide.
"""

from __future__ import annotations

import re

import pytest

from tests.benchmarks import pages


@pytest.mark.timeout(300)
def test_each_list_is_asked_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    pages.main(["--database", "sqlite", "--conversations", "200", "--times", "2"])
    rows = re.findall(r"^│ (\S.*?) +│ +(\d+) │ +(\d+) │ +(\d+) │", capsys.readouterr().out, re.M)
    assert [name for name, *_times in rows] == [*pages.LISTS, pages.NEXT_PAIR, pages.VOTE]
    assert all(int(p95) >= int(p50) for _name, _first, p50, p95 in rows)


def test_what_takes_longer_than_its_goal_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    slow, fast = pages.Taken(900, [150.0] * 5), pages.Taken(900, [20.0] * 5)
    assert not pages.print_table({"sqlite": {pages.VOTE: slow, "/api/runs": slow}}, pages.Size())
    out = capsys.readouterr().out
    assert "MISSED vote on sqlite: 150 ms of 100" in out
    assert "MISSED /api/runs" not in out
    assert pages.print_table({"sqlite": {pages.VOTE: fast, "/api/runs": slow}}, pages.Size())
