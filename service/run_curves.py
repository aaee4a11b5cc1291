"""What a run measured while it learnt, as curves short enough for a page to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import rlhf_engine

MOST_POINTS = 200
"""Points of a curve; where more were measured, neighbours are averaged."""

MOST_FILES = 8
SIGNAL_PREFIX = "reward/"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot, from a key of metrics.jsonl; `spread` is the key of what lies around it
    on either side."""

    key: str
    label: str
    spread: str | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot: what it is called, what its steps are, and how to read it."""

    id: str
    title: str
    step: str
    note: str
    lines: tuple[Line, ...]


PANELS = (
    Panel(
        "reward",
        "Reward",
        "batch",
        "What the reward model thinks of the answers drawn; the band is how far its heads differ.",
        (
            Line("objective/score", "reward model", "objective/score_spread"),
            Line("objective/rlhf_reward", "after all penalties"),
        ),
    ),
    Panel(
        "kl",
        "Distance from the start (KL)",
        "batch",
        "How far the policy moved from the one it began with, in nats an answer.",
        (Line("objective/kl", "KL"),),
    ),
    Panel(
        "entropy",
        "Entropy",
        "batch",
        "How open the choice of the next word is, in nats; near 0 the policy repeats itself.",
        (Line("policy/entropy", "entropy"),),
    ),
    Panel(
        "value",
        "Value",
        "batch",
        "How much of the rewards' variation the critic foresees; 1 is all of it.",
        (Line("value/explained_variance", "explained variance"),),
    ),
    Panel(
        "length",
        "Length of answers",
        "batch",
        "In tokens; a word is one to two of them.",
        (Line("length/mean", "tokens"),),
    ),
    Panel(
        "reward_model",
        "Learning the votes",
        "step",
        "The reward model's loss on the votes; lower is better.",
        (Line("reward_model/loss", "loss"),),
    ),
    Panel(
        "sft",
        "Learning the right answers",
        "step",
        "The loss on gold answers, learnt and held out; lower is better.",
        (Line("sft/loss", "learnt"), Line("sft/eval_loss", "held out")),
    ),
)


@dataclass(frozen=True, slots=True)
class Series:
    """A line's figures, as long as the curve's `x`; None where nothing was measured."""

    label: str
    values: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A panel with its figures."""

    panel: Panel
    x: list[float]
    series: list[Series]


def read_curves(run: Path) -> list[Curve]:
    """The curves of a run so far; those without a figure are left out."""
    path = rlhf_engine.RunFolder(run).metrics_path
    try:
        state = path.stat()
    except FileNotFoundError:
        return []
    return _read(run, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=MOST_FILES)
def _read(run: Path, _written_ns: int, _size: int) -> list[Curve]:
    """Read once for each state of the file; a page looks again and again."""
    rows = rlhf_engine.RunFolder(run).metrics()
    curves = (_curve(panel, rows) for panel in (*PANELS, _signals_panel(rows)))
    return [curve for curve in curves if curve is not None]


def _signals_panel(rows: Sequence[dict[str, Any]]) -> Panel:
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith(SIGNAL_PREFIX))
    return Panel(
        "signals",
        "Reward signals",
        "batch",
        "What each signal reads of the answers drawn, from -1 to 1; where it abstains counts as 0.",
        tuple(Line(key, key.removeprefix(SIGNAL_PREFIX)) for key in keys),
    )


def _curve(panel: Panel, rows: Sequence[dict[str, Any]]) -> Curve | None:
    keys = [line.key for line in panel.lines]
    mine = [row for row in rows if any(key in row for key in keys)]
    if not mine:
        return None
    groups = _groups(len(mine))
    x = [float(mine[group[-1]].get(panel.step, group[-1])) for group in groups]
    return Curve(panel, x, [_series(line, mine, groups) for line in panel.lines])


def _groups(count: int) -> list[range]:
    """`count` rows as at most MOST_POINTS runs of neighbours, none empty."""
    points = min(count, MOST_POINTS)
    ends = [count * at // points for at in range(points + 1)]
    return [range(first, last) for first, last in pairwise(ends)]


def _series(line: Line, rows: Sequence[dict[str, Any]], groups: Sequence[range]) -> Series:
    values = [_mean(rows, group, line.key) for group in groups]
    spreads = [_mean(rows, group, line.spread) for group in groups] if line.spread else []
    if not any(spread is not None for spread in spreads):
        return Series(line.label, values)
    both = list(zip(values, spreads, strict=True))
    return Series(
        line.label,
        values,
        [None if v is None or s is None else v - s for v, s in both],
        [None if v is None or s is None else v + s for v, s in both],
    )


def _mean(rows: Sequence[dict[str, Any]], group: range, key: str) -> float | None:
    found = [rows[at][key] for at in group if key in rows[at]]
    return sum(found) / len(found) if found else None
