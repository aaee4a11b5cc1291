"""Whether the engine still does its work: its thread is there, and its rounds come to an end."""

from __future__ import annotations

from rlhf_engine.answer_events import EngineStats

STALLED_S = 120.0
"""An engine whose round of work takes longer is stuck: no step and no prompt take as long."""


def engine_trouble(stats: EngineStats | None) -> str | None:
    """Why the engine cannot be asked, in words, or None; none has started where there are no
    stats, and nothing is wrong with that."""
    lasting = lasting_trouble(stats)
    if lasting is None and stats is not None and not stats.ready:
        return "the engine cannot be asked now; it is tried again"
    return lasting


def lasting_trouble(stats: EngineStats | None) -> str | None:
    """What only a restart of this server helps against."""
    if stats is None:
        return None
    if not stats.alive:
        return "the engine has ended; restart the server"
    if stats.round_s > STALLED_S:
        return f"the engine has made no step for {stats.round_s:.0f} s; restart the server"
    return None
