"""What the torch engine tells whoever asked: tokens, ends, failures, its own state. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_engine.errors import EngineError
from rlhf_engine.records import SampledAnswer


@dataclass(frozen=True, slots=True)
class Token:
    """More text of one answer. The pieces of a row, joined, are the answer's text."""

    row: int
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """One answer is complete; nothing more comes for its row."""

    row: int
    answer: SampledAnswer


@dataclass(frozen=True, slots=True)
class Failed:
    """The job is over before all of its answers are; nothing more comes for any row.

    `error` is Cancelled where the asker left, else a GenerationError.
    """

    error: EngineError


Event = Token | Ended | Failed


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at one moment.

    `ended`, `failed` (cancelled ones among them) and `tokens` count jobs and tokens since
    the start; `active` and `waiting` count jobs.
    """

    ready: bool
    dtype: str
    active: int
    waiting: int
    ended: int
    failed: int
    tokens: int
    using: dict[str, int]
    """Jobs, waiting or active, by id of each loaded version."""
