"""TRL's SFTTrainer, with the output head on answer positions only, and its padding counted.

Legend: b batch, s tokens of prompt and answer, padded on the right.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import Tensor
from transformers import Trainer
from trl import SFTTrainer

IGNORED = -100
"""The label of a position without loss."""


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
    """Learns from rows whose labels are IGNORED up to the answer."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.padding = Padding()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean cross-entropy (nats) over the labelled tokens.

        On a GPU the fused head of TRL skips the prompt by itself; elsewhere it would compute
        the whole vocabulary for every prompt token too.
        """
        if model.training:
            self.padding.count(inputs["attention_mask"])
        if inputs["input_ids"].is_cuda:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return Trainer.compute_loss(
            self, model, answer_part(inputs), return_outputs, num_items_in_batch
        )


def answer_part(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same rows [b, s] with labels and output head from the first answer token on."""
    labels: Tensor = inputs["labels"]
    labelled = (labels != IGNORED).any(dim=0).int()
    # The position before the first label is the one that predicts it.
    kept = labels.shape[1] - int(labelled.argmax()) + 1
    kept = min(kept, labels.shape[1])
    return {**inputs, "labels": labels[:, -kept:], "logits_to_keep": kept, "use_cache": False}


@dataclass
class Padding:
    """Places of the training batches, and those among them that hold a token."""

    places: int = 0
    tokens: int = 0

    def count(self, mask: Tensor) -> None:
        """Add a batch by its mask [b, s], 1 on tokens."""
        self.places += mask.numel()
        self.tokens += int(mask.sum())

    def share(self) -> float:
        """Share of the places that is padding; 0 before any batch."""
        return 1 - self.tokens / self.places if self.places else 0.0


def random_padding_share(
    lengths: Sequence[int], at_once: int, seed: int, rounds: int = 20
) -> float:
    """The padding that rows of these lengths have in random order: the mean of `rounds` orders."""
    drawn = random.Random(seed)  # noqa: S311 - an estimate, no secret
    shares = []
    for _ in range(rounds):
        order = drawn.sample(list(lengths), len(lengths))
        parts = [order[at : at + at_once] for at in range(0, len(order), at_once)]
        shares.append(1 - sum(lengths) / sum(max(part) * len(part) for part in parts))
    return fmean(shares)
