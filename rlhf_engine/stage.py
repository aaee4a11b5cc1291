"""What every stage is given: the run, its plan, and a way to say how far it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlhf_engine.errors import TrainingError
from rlhf_engine.plan import RunPlan
from rlhf_engine.run_folder import Progress, RunFolder

_SHOW_EVERY_S = 0.5
_DRAW_EVERY_S = 20.0
"""A picture takes about a second, as long as several batches of a tiny policy."""


@dataclass
class Stage:
    """One stage at work. `tell` shows progress and honours a request to stop."""

    name: str
    run: RunFolder
    plan: RunPlan
    dtype: str
    on_progress: Callable[[Progress], None] | None = None
    _started: float = field(init=False)
    _earlier_s: float = field(init=False)
    _shown: float = 0.0
    _drawn: float = 0.0
    _part: tuple[str, int, float] = ("", 0, 0.0)

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        told = self.run.progress()
        self._earlier_s = told.spent_s if told and told.stage == self.name else 0.0

    @property
    def path(self) -> Path:
        """The stage's own folder."""
        return self.run.stage_path(self.name)

    def tell(self, step: int, total: int, note: str = "") -> None:
        """Say that `step` of `total` is done; raises Cancelled if the run was asked to stop."""
        self.run.raise_if_cancelled()
        self.show(step, total, note)

    def show(self, step: int, total: int, note: str = "") -> None:
        """Say that `step` of `total` is done, whether or not the run was asked to stop."""
        at = time.monotonic()
        if note != self._part[0]:
            self._part = (note, step, at)
        if step < total and at - self._shown < _SHOW_EVERY_S:
            return
        self._shown = at
        left = self._left(step, total)
        progress = Progress(self.name, step, total, note, left, time.time(), self.seconds())
        self.run.write_progress(progress)
        if self.on_progress is not None:
            self.on_progress(progress)

    def draw(self) -> None:
        """Draw the run's picture as far as it is, not too often."""
        if time.monotonic() - max(self._drawn, self._started) >= _DRAW_EVERY_S:
            draw(self.run)
            self._drawn = time.monotonic()

    def seconds(self) -> float:
        """Wall time of the stage over all tries; of one that was killed, as far as it told."""
        return self._earlier_s + time.monotonic() - self._started

    def _left(self, step: int, total: int) -> float | None:
        """Seconds left of what `note` names, from its own pace."""
        _, first, since = self._part
        if step <= first:
            return None
        return (time.monotonic() - since) / (step - first) * (total - step)


def draw(run: RunFolder) -> None:
    """Draw the run's picture as far as it is."""
    # Imported late: what draws needs memory that the first stages can use.
    from rlhf_engine.plots import plot_run

    plot_run(run)


class TrainerWatch(TrainerCallback):  # type: ignore[misc]
    """Carries a Trainer's steps and losses to the stage."""

    def __init__(self, stage: Stage, note: str) -> None:
        self._stage, self._note = stage, note

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """One optimizer step is done."""
        del args, control
        self._stage.tell(state.global_step, state.max_steps, self._note)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """One batch of what is watched is read: nothing is learnt, but the run is alive."""
        del args, control
        self._stage.tell(state.global_step, state.max_steps, self._note)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """The trainer reports figures; those with a number are kept. TrainingError where a loss
        or gradient is not finite: the weights are lost by then, and more steps are in vain."""
        del args, control
        name = self._stage.name
        row: dict[str, float] = {}
        for key, value in (logs or {}).items():
            if isinstance(value, int | float):
                row[f"{name}/{key}"] = float(value)
                if not math.isfinite(value):
                    raise TrainingError(
                        f"stage {name}: {key} is {value} at step {state.global_step}; lower "
                        f"{name}.learning_rate, then start a new run"
                    )
        self._stage.run.append_metrics({"step": state.global_step, **row})
