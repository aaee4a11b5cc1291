"""The table of plugins: how each is doing, and whether it is switched on."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlmodel import Field, SQLModel

from service.tables import UtcDateTime


def _later() -> Any:
    return Field(default=None, sa_type=UtcDateTime, nullable=True)


class PluginState(SQLModel, table=True):
    """What a plugin did since it was first used. One without a row was never called."""

    __tablename__ = "plugin_state"

    name: str = Field(primary_key=True)
    is_on: bool = True
    off_reason: str | None = None
    """Why it is off: what an operator, or too many failures in a row, switched off."""
    switched_by: str | None = None
    """Who switched it last, None where it was the failures."""
    switched_at: datetime | None = _later()
    calls: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    seconds: float = 0.0
    """All calls together."""
    slowest_s: float = 0.0
    slowest_call: str | None = None
    peak_mb: int = 0
    """The most memory that one of its processes has used."""
    called_at: datetime | None = _later()
    last_error: str | None = None
    failed_at: datetime | None = _later()
