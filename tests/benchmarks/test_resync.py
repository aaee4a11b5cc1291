"""The benchmark of unchanged syncs runs, on few documents."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.benchmarks.resync import main, measure


def test_every_sync_does_what_it_is_measured_for(engine: Engine, tmp_path: Path) -> None:
    taken = measure(engine, tmp_path, documents=210, times=2)
    assert len(taken.unchanged) == 2
    assert min(taken.first, taken.changed, *taken.unchanged) > 0


def test_the_command_prints_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--database", "sqlite", "--documents", "120", "--times", "1"])
    printed = capsys.readouterr().out
    assert "sqlite: 120 documents" in printed
    assert "1.000" in printed
    assert "goal 0.2 s" in printed
