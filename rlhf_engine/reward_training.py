"""Trains the reward model's heads and adapter by TRL's RewardTrainer, on the backbone itself.

The trainer works on the backbone's own weights, so no second copy of the base policy is in
memory. A pair's prompt goes through the model once; both answers go on from its key-value
cache. Where training begins is found by reward_beginning.py. Some questions are watched and not
learnt from; what forecasts their votes best on the way is kept, the beginning included: with few
or contradictory votes the adapter soon learns who voted, and no longer what is good.

Legend: k heads, b pairs, h hidden width.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from trl import RewardConfig, RewardTrainer

from rlhf_engine.backbone import AnswerGroups, Backbone, read_answers
from rlhf_engine.early_stop import EarlyStop
from rlhf_engine.pair_rows import LABELS, PairCollator, tokenised
from rlhf_engine.plan import RewardPlan
from rlhf_engine.preferences import Pair
from rlhf_engine.reward_beginning import Beginning, begin
from rlhf_engine.reward_math import bootstrap_weights, comparison_loss
from rlhf_engine.reward_model import adapter_folder, adapter_name, read_heads, read_layers
from rlhf_engine.sft import train_quietly, trainer_settings
from rlhf_engine.snapshot import is_watched
from rlhf_engine.stage import Stage

MIN_WATCHED = 24
"""Watched pairs that say which answer is better: a choice by fewer would be a choice by chance."""

LOOKS_AN_EPOCH = 2


@dataclass(frozen=True, slots=True)
class Lessons:
    """Rows to learn from and rows that are only watched (pair_rows.py)."""

    learnt: list[dict[str, Any]]
    watched: list[dict[str, Any]]

    def of_head(self, number: int) -> Lessons:
        """The same with the weights of one head alone."""
        return Lessons(_of_head(self.learnt, number), _of_head(self.watched, number))


def _of_head(rows: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    return [
        {
            **row,
            "pairs": [{**pair, "weights": [pair["weights"][number]]} for pair in row["pairs"]],
        }
        for row in rows
    ]


class Scorer(nn.Module):
    """What the trainer trains: the backbone's adapter in use and heads `score` [k, h], kept in
    float32 over a base policy of any number format."""

    def __init__(self, backbone: Backbone, heads: Tensor, layers: int) -> None:
        super().__init__()
        self.model, self.layers = backbone.model, layers
        self.score = nn.Parameter(heads.to(backbone.device))
        self.config = copy.deepcopy(backbone.model.config)
        # RewardTrainer takes nothing else; each head is one such label.
        self.config.num_labels = 1

    def forward(
        self, prompts: Tensor, prompt_mask: Tensor, answers: Tensor, answer_mask: Tensor
    ) -> Tensor:
        """The tensors of AnswerGroups to raw scores [k, b]."""
        groups = AnswerGroups(prompts, prompt_mask, answers, answer_mask)
        read = read_answers(self.model, groups, head=False, layers=self.layers)
        hidden = read.last_hidden_state
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
    plan, tokenizer = stage.plan.reward_model, backbone.tokenizer
    learnt, watched = split_watched(pairs, plan)
    drawn = bootstrap_weights(plan.heads, len(learnt), stage.plan.seed)
    rows, cut = tokenised(tokenizer, learnt, stage.plan, drawn)
    alike = torch.ones(plan.heads, len(watched))
    rows_watched, cut_watched = tokenised(tokenizer, watched, stage.plan, alike)
    beginning, shared = begin(stage, backbone, rows), Lessons(rows, rows_watched)
    members = (
        [shared.of_head(number) for number in range(plan.heads)]
        if plan.separate_adapters
        else [shared]
    )
    figures: dict[str, Any] = {}
    for number, lessons in enumerate(members):
        for name, value in _train_member(stage, backbone, lessons, number, beginning).items():
            figures.setdefault(name, []).append(value)
    return {
        **{name: count + cut_watched[name] for name, count in cut.items()},
        "heads": plan.heads,
        "separate_adapters": plan.separate_adapters,
        "watched": len(watched),
        **beginning.figures,
        **_joined(figures),
    }


def split_watched(pairs: Sequence[Pair], plan: RewardPlan) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Pairs to learn from and pairs that are watched: those of `watched_percent` of the
    questions, chosen by hash; none where they would be too few to choose by."""
    watched = [pair for pair in pairs if is_watched(pair.prompt.question, plan.watched_percent)]
    if sum(pair.kind == "votes" and pair.target > 0.5 for pair in watched) < MIN_WATCHED:
        return pairs, []
    kept = set(map(id, watched))
    return [pair for pair in pairs if id(pair) not in kept], watched


def _train_member(
    stage: Stage, backbone: Backbone, lessons: Lessons, number: int, beginning: Beginning
) -> dict[str, Any]:
    """Train adapter `number` with as many heads as the rows have weights; its figures."""
    name = adapter_name(number)
    heads = beginning.install(stage, backbone, number)
    note = (
        f"learning from comparisons, head {number + 1}" if number else "learning from comparisons"
    )
    with backbone.using(name, trainable=True):
        scorer = Scorer(backbone, heads, read_layers(backbone, stage.plan.reward_model))
        trainer = _trainer(stage, backbone, scorer, lessons, number)
        # A reward model of an earlier cycle may have learnt what is watched now.
        trainer.args.eval_on_start = bool(lessons.watched) and not beginning.adapters
        learns = [*backbone.adapter_parameters(name), scorer.score]
        stop = EarlyStop(learns, stage.plan.reward_model.patience)
        trainer.add_callback(stop)
        loss = train_quietly(trainer, stage, note)
        if lessons.watched and trainer.state.global_step % trainer.args.eval_steps:
            trainer.evaluate()
        stop.restore()
    backbone.model.eval()
    backbone.save_adapter(name, adapter_folder(stage.path, number), scorer.score)
    shutil.rmtree(stage.path / "trainer", ignore_errors=True)
    figures = {"train_loss": loss, "steps": trainer.state.global_step}
    if not stop.losses:
        return figures
    return figures | {
        "watched_losses": stop.losses,
        "best_step": stop.best_step,
        "stopped_early": stop.stopped,
    }


def _trainer(
    stage: Stage, backbone: Backbone, scorer: Scorer, lessons: Lessons, number: int
) -> ComparisonTrainer:
    plan = stage.plan.reward_model
    return ComparisonTrainer(
        model=scorer,
        args=RewardConfig(
            output_dir=str(stage.path / "trainer"),
            num_train_epochs=plan.epochs,
            learning_rate=plan.learning_rate,
            max_length=None,
            **_settings(stage, number, lessons),
        ),
        train_dataset=Dataset.from_list(lessons.learnt),
        eval_dataset=Dataset.from_list(lessons.watched) if lessons.watched else None,
        processing_class=backbone.tokenizer,
        data_collator=PairCollator(backbone.pad_id),
        centre_coefficient=plan.centre_coefficient,
        both_bad_weight=plan.both_bad_weight,
    )


def _settings(stage: Stage, number: int, lessons: Lessons) -> dict[str, Any]:
    """As many rows at once as keep to the plan's answers at once; each separate adapter reads
    the rows in an order of its own."""
    plan = stage.plan
    answers = max(len(row["answers"]) for row in lessons.learnt)
    at_once = max(1, plan.micro_batch_size // answers)
    settings = trainer_settings(plan, stage.dtype, plan.reward_model.batch_size, at_once)
    settings["seed"] = plan.seed + number
    if not lessons.watched:
        return settings
    rows_a_step = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    return settings | {
        "eval_strategy": "steps",
        "eval_steps": math.ceil(len(lessons.learnt) / rows_a_step / LOOKS_AN_EPOCH),
        "per_device_eval_batch_size": at_once,
        "prediction_loss_only": True,
        # By these the trainer knows that a batch has a loss.
        "label_names": list(LABELS),
    }


def _joined(members: dict[str, list[Any]]) -> dict[str, Any]:
    """Figures of one adapter as they are; of several the mean loss, all steps, and lists."""
    found: dict[str, Any] = {
        name: values[0] if len(values) == 1 else values for name, values in members.items()
    }
    losses = members["train_loss"]
    return found | {"train_loss": sum(losses) / len(losses), "steps": sum(members["steps"])}
