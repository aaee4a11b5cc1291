"""The benchmark of generation's steps, at its smallest."""

from __future__ import annotations

import pytest

from tests.benchmarks import decode_step


def test_both_kinds_of_attention_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert decode_step.main(["--layers", "1", "--steps", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.rstrip(" \u2502").endswith("x") for line in lines) == len(decode_step.SIZES)
