"""Early stop: the weights with the lowest held-out loss are kept, and training ends after them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class EarlyStop(TrainerCallback):  # type: ignore[misc]
    """Keeps the best values of what learns in memory (no file) and stops after `patience`
    evaluations that were no better. `losses` are means over what is watched, one an evaluation."""

    def __init__(self, parameters: Sequence[nn.Parameter], patience: int) -> None:
        self.losses: list[float] = []
        self.best_step = 0
        self.stopped = False
        self._parameters, self._patience = list(parameters), patience
        self._best: list[Tensor] = []
        self._worse = 0

    @property
    def best_loss(self) -> float:
        """The lowest held-out loss so far; infinity before the first evaluation."""
        return min(self.losses, default=math.inf)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        """The held-out loss was measured: keep the weights, or count towards the stop."""
        del args
        loss = metrics["eval_loss"]
        if loss < self.best_loss:
            self._best = [each.detach().clone() for each in self._parameters]
            self.best_step, self._worse = state.global_step, 0
        else:
            self._worse += 1
        self.losses.append(loss)
        if self._worse >= self._patience and state.global_step < state.max_steps:
            self.stopped = control.should_training_stop = True

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights back; without an evaluation nothing changes."""
        for parameter, value in zip(self._parameters, self._best, strict=False):
            parameter.copy_(value)
