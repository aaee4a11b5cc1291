"""Early stop: the adapter with the lowest held-out loss is kept, and training ends after it."""

from __future__ import annotations

import math
from typing import Any

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class EarlyStop(TrainerCallback):  # type: ignore[misc]
    """Keeps the best adapter in memory (LoRA tensors only, no file) and stops after `patience`
    evaluations that were no better. `losses` are nats a token, one an evaluation."""

    def __init__(self, model: PeftModel, patience: int) -> None:
        self.losses: list[float] = []
        self.best_step = 0
        self.stopped = False
        self._model, self._patience = model, patience
        self._best: dict[str, Tensor] = {}
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
        """The held-out loss was measured: keep the adapter, or count towards the stop."""
        del args
        loss = metrics["eval_loss"]
        if loss < self.best_loss:
            state_dict = get_peft_model_state_dict(self._model)
            self._best = {key: value.detach().clone() for key, value in state_dict.items()}
            self.best_step, self._worse = state.global_step, 0
        else:
            self._worse += 1
        self.losses.append(loss)
        if self._worse >= self._patience and state.global_step < state.max_steps:
            self.stopped = control.should_training_stop = True

    def restore(self) -> None:
        """Put the best adapter back; without an evaluation nothing changes."""
        if self._best:
            set_peft_model_state_dict(self._model, self._best)
