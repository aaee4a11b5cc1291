"""Pairs that wait for a vote, left in a run's folder to be read by its reward model.

RUN/waiting.jsonl         the pairs, left by whoever started the run
RUN/disagreement.jsonl    {"id", "spread"} a pair, written at the run's end (disagreement.py)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_engine.errors import RunFolderError
from rlhf_engine.files import read_lines, write_lines
from rlhf_engine.records import Prompt, from_json, to_json

WAITING = "waiting.jsonl"
SPREADS = "disagreement.jsonl"


@dataclass(frozen=True, slots=True)
class WaitingPair:
    """Two answers to one prompt that nobody has chosen between yet."""

    id: str
    prompt: Prompt
    answer_a: str
    answer_b: str


def write_waiting(run: Path, pairs: Sequence[WaitingPair]) -> None:
    """Leave pairs in a run's folder, to be read at its end."""
    write_lines(run / WAITING, [to_json(pair) for pair in pairs])


def read_waiting(run: Path) -> list[WaitingPair]:
    """The pairs left there, none where nobody left any; RunFolderError if they are unreadable."""
    path = run / WAITING
    if not path.exists():
        return []
    try:
        return [from_json(WaitingPair, row) for row in read_lines(path)]
    except (ValueError, TypeError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}; remove it and resume") from error


def write_spreads(run: Path, spreads: Mapping[str, float]) -> None:
    """Keep how far the reward heads' opinions of each pair lie apart."""
    rows = [{"id": number, "spread": spread} for number, spread in spreads.items()]
    write_lines(run / SPREADS, rows)


def read_spreads(run: Path) -> dict[str, float] | None:
    """What `write_spreads` kept; None where nothing was read yet; RunFolderError if it is
    unreadable."""
    path = run / SPREADS
    if not path.exists():
        return None
    try:
        return {str(row["id"]): float(row["spread"]) for row in read_lines(path)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}; remove it") from error
