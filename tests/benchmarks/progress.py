"""How far a benchmark's training is, on stderr, as the service's commands show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rlhf_engine import Progress
from service.commands.terminal import steps


@contextmanager
def training_progress(what: str) -> Iterator[Callable[[Progress], None]]:
    """Hears how far the training `what` is, and shows it."""
    with steps() as step:
        yield lambda told: step(
            f"{what}, {told.stage}: {told.note}", told.step, told.total, told.left_s
        )
