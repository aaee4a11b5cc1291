"""Trains the reward model's heads and adapter by TRL's RewardTrainer, on the backbone itself.

The trainer works on the backbone's own weights, so no second copy of the base policy is in
memory. A pair's prompt goes through the model once; both answers go on from its key-value
cache. The adapter begins as the last cycle's reward model where that fits, else as the SFT
policy's.

Legend: k heads, b pairs, h hidden width.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from trl import RewardConfig, RewardTrainer

from rlhf_engine.backbone import (
    SCORE_KEY,
    AnswerGroups,
    Backbone,
    lora_config,
    read_adapter,
    read_answers,
)
from rlhf_engine.base_policy import base_hash
from rlhf_engine.errors import PolicyVersionError
from rlhf_engine.pair_rows import LABELS, PairCollator, tokenised
from rlhf_engine.plan import RunPlan
from rlhf_engine.preferences import Pair
from rlhf_engine.reward_math import bootstrap_weights, comparison_loss
from rlhf_engine.reward_model import Scale, adapter_folder, adapter_name, read_heads
from rlhf_engine.sft import train_quietly, trainer_settings
from rlhf_engine.stage import Stage


@dataclass(frozen=True, slots=True)
class Beginning:
    """What training starts from: adapters with their heads (the last cycle's), or nothing.

    `refused` says why the last cycle's reward model was not taken, "" where none was named.
    """

    adapters: tuple[tuple[dict[str, Any], dict[str, Tensor]], ...] = ()
    refused: str = ""


class Scorer(nn.Module):
    """What the trainer trains: the backbone's adapter in use and heads `score` [k, h], kept in
    float32 over a base policy of any number format."""

    def __init__(self, backbone: Backbone, heads: Tensor) -> None:
        super().__init__()
        self.model = backbone.model
        self.score = nn.Parameter(heads.to(backbone.device))
        self.config = copy.deepcopy(backbone.model.config)
        # RewardTrainer takes nothing else; each head is one such label.
        self.config.num_labels = 1

    def forward(
        self, prompts: Tensor, prompt_mask: Tensor, answers: Tensor, answer_mask: Tensor
    ) -> Tensor:
        """The tensors of AnswerGroups to raw scores [k, b]."""
        groups = AnswerGroups(prompts, prompt_mask, answers, answer_mask)
        hidden = read_answers(self.model, groups, head=False).last_hidden_state
        # A trainer on a GPU would compute the heads in the base policy's number format.
        with torch.autocast(hidden.device.type, enabled=False):
            return read_heads(hidden, groups.lengths, self.score)

    def add_model_tags(self, tags: Any) -> None:
        """RewardTrainer labels models for the hub; this one stays here."""


class ComparisonTrainer(RewardTrainer):  # type: ignore[misc]
    """RewardTrainer with soft targets, weights, several heads, and prompts computed once."""

    def __init__(self, *, centre_coefficient: float, both_bad_weight: float, **more: Any) -> None:
        super().__init__(**more)
        self.centre_coefficient, self.both_bad_weight = centre_coefficient, both_bad_weight
        self.pairs_a_row = sum(map(len, self.train_dataset["pairs"])) / len(self.train_dataset)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """Rows are ready as they come (pair_rows.py)."""
        return dataset

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean over pairs and heads of reward_math.comparison_loss; accuracy is logged."""
        del num_items_in_batch
        labels = {name: inputs[name] for name in LABELS}
        scores = model(**{name: inputs[name] for name in inputs if name not in LABELS})
        chosen, rejected = scores[:, labels["chosen"]], scores[:, labels["rejected"]]
        losses = comparison_loss(
            chosen,
            rejected,
            labels["target"],
            labels["margin"],
            labels["both_bad"],
            labels["weights"].T,
            self.centre_coefficient,
            self.both_bad_weight,
        )
        # Not the mean over pairs: a row with many pairs would count as much as one with one.
        loss = losses.sum(dim=1).mean() / (len(inputs["prompts"]) * self.pairs_a_row)
        mode = "train" if self.model.training else "eval"
        self._note(mode, (chosen - rejected).detach().mean(dim=0), labels)
        return (loss, {"scores": scores.T}) if return_outputs else loss

    def _note(self, mode: str, differences: Tensor, labels: dict[str, Tensor]) -> None:
        decisive = (labels["target"] > 0.5) & ~labels["both_bad"]
        if decisive.any():
            right = (differences[decisive] > 0).float().mean()
            self._metrics[mode]["accuracy"].append(float(right))


def train_heads(stage: Stage, backbone: Backbone, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Train all heads and write their adapters; figures of the training."""
    plan = stage.plan.reward_model
    drawn = bootstrap_weights(plan.heads, len(pairs), stage.plan.seed)
    members = list(drawn.unsqueeze(1)) if plan.separate_adapters else [drawn]
    beginning = warm_start(stage.plan, backbone)
    losses = []
    for number, weights in enumerate(members):
        rows, cut = tokenised(backbone.tokenizer, pairs, stage.plan, weights)
        losses.append(_train_member(stage, backbone, rows, number, beginning))
    figures: dict[str, Any] = {
        **cut,
        "heads": plan.heads,
        "separate_adapters": plan.separate_adapters,
        "warm_started": bool(beginning.adapters),
        "train_loss": sum(loss for loss, _ in losses) / len(losses),
        "steps": sum(steps for _, steps in losses),
    }
    return figures | ({"warm_start_refused": beginning.refused} if beginning.refused else {})


def _train_member(
    stage: Stage,
    backbone: Backbone,
    rows: list[dict[str, Any]],
    number: int,
    beginning: Beginning,
) -> tuple[float, int]:
    """Train adapter `number` with as many heads as the rows have weights; loss and steps."""
    plan, name = stage.plan, adapter_name(number)
    heads = _begin(stage, backbone, number, len(rows[0]["pairs"][0]["weights"]), beginning)
    note = (
        f"learning from comparisons, head {number + 1}" if number else "learning from comparisons"
    )
    with backbone.using(name, trainable=True):
        scorer = Scorer(backbone, heads)
        trainer = ComparisonTrainer(
            model=scorer,
            args=RewardConfig(
                output_dir=str(stage.path / "trainer"),
                num_train_epochs=plan.reward_model.epochs,
                learning_rate=plan.reward_model.learning_rate,
                max_length=None,
                **_settings(plan, stage.dtype, number, rows),
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=backbone.tokenizer,
            data_collator=PairCollator(backbone.pad_id),
            centre_coefficient=plan.reward_model.centre_coefficient,
            both_bad_weight=plan.reward_model.both_bad_weight,
        )
        loss = train_quietly(trainer, stage, note)
    backbone.model.eval()
    backbone.save_adapter(name, adapter_folder(stage.path, number), scorer.score)
    shutil.rmtree(stage.path / "trainer", ignore_errors=True)
    return loss, trainer.state.global_step


def _settings(
    plan: RunPlan, dtype: str, number: int, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """As many rows at once as keep to the plan's answers at once; each separate adapter reads
    the rows in an order of its own."""
    answers = max(len(row["answers"]) for row in rows)
    at_once = max(1, plan.micro_batch_size // answers)
    settings = trainer_settings(plan, dtype, plan.reward_model.batch_size, at_once)
    return {**settings, "seed": plan.seed + number}


def _begin(
    stage: Stage, backbone: Backbone, number: int, heads: int, beginning: Beginning
) -> Tensor:
    """Put adapter `number` on the backbone as training begins; returns its heads [k, h]."""
    name = adapter_name(number)
    if beginning.adapters:
        config, weights = beginning.adapters[number]
        backbone.install_adapter(name, config, weights)
        return weights[SCORE_KEY].float()
    config, weights = read_adapter(stage.run.stage_path("sft") / "adapter")
    torch.manual_seed(stage.plan.seed + number)
    if _misfit(config, stage.plan, backbone):
        backbone.new_adapter(name, stage.plan.lora)
    else:
        backbone.install_adapter(name, config, weights)
    drawn = torch.Generator().manual_seed(stage.plan.seed + number)
    return torch.randn(heads, backbone.width, generator=drawn) / math.sqrt(backbone.width + 1)


def warm_start(plan: RunPlan, backbone: Backbone) -> Beginning:
    """The last cycle's reward model, if the plan names one that fits; else why not."""
    if plan.reward_model.warm_start is None:
        return Beginning()
    folder, wanted = Path(plan.reward_model.warm_start), plan.reward_model
    adapters = wanted.heads if wanted.separate_adapters else 1
    try:
        scale = Scale.read(folder)
        stored = tuple(read_adapter(adapter_folder(folder, at)) for at in range(scale.adapters))
    except (OSError, ValueError, TypeError, KeyError, PolicyVersionError) as error:
        return Beginning(refused=f"{folder} cannot be read: {error}")
    if scale.base != base_hash(Path(plan.base)):
        return Beginning(refused="it was trained on another base policy")
    if (scale.adapters, len(scale.means)) != (adapters, wanted.heads):
        return Beginning(
            refused=f"it has {len(scale.means)} heads over {scale.adapters} adapters, the plan "
            f"{wanted.heads} over {adapters}"
        )
    misfit = next(filter(None, (_misfit(config, plan, backbone) for config, _ in stored)), "")
    return Beginning(refused=misfit) if misfit else Beginning(stored)


def _misfit(config: dict[str, Any], plan: RunPlan, backbone: Backbone) -> str:
    """Where a stored adapter differs from the plan's, in a sentence; "" where it fits."""
    wanted = lora_config(backbone.model, plan.lora)
    for name, planned in (
        ("r", wanted.r),
        ("lora_alpha", wanted.lora_alpha),
        ("layers_to_transform", wanted.layers_to_transform),
    ):
        if config.get(name) != planned:
            return f"its {name} is {config.get(name)}, the plan's {planned}"
    return ""
