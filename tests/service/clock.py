"""A clock that the voting modules read in place of the real one."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from service import tables

MODULES = ("ballots", "voting", "vote_checks", "vote_pairs", "voting_queue", "voting_figures")


class Clock:
    """Begins now and stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: datetime = tables.now()
        for module in MODULES:
            monkeypatch.setattr(f"service.{module}.now", lambda: self.at)

    def on(self, seconds: float) -> None:
        """Let time go by."""
        self.at += timedelta(seconds=seconds)
