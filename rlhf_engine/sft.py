"""Stage sft: supervised fine-tuning on the gold answers, by TRL's SFTTrainer with LoRA.

Loss falls on the answer and its end-of-turn token only. The policy's own answers to
questions outside training are compared with the human ones before and after.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel, set_peft_model_state_dict
from transformers import PrinterCallback
from trl import SFTConfig

from rlhf_engine.answer_sheet import SheetRow, fill_sheet
from rlhf_engine.answer_trainer import IGNORED, AnswerTrainer, random_padding_share
from rlhf_engine.backbone import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Backbone,
    config_json,
    lora_config,
    read_adapter,
    write_adapter,
)
from rlhf_engine.early_stop import EarlyStop
from rlhf_engine.errors import PlanError, TrainingError
from rlhf_engine.gold_answers import Lessons, choose_lessons, write_watched
from rlhf_engine.memory import give_back
from rlhf_engine.plan import RunPlan, SftPlan
from rlhf_engine.records import Demonstration, StageReport
from rlhf_engine.render import answer_ids, prompt_ids
from rlhf_engine.snapshot import Snapshot
from rlhf_engine.stage import Stage, TrainerWatch
from rlhf_engine.statistics import mean_interval

Rows = list[dict[str, list[int]]]


def run_sft(stage: Stage, snapshot: Snapshot) -> StageReport:
    """Train, or take over an adapter trained on the same demonstrations; then compare."""
    plan, adapter = stage.plan, stage.path / "adapter"
    lessons = choose_lessons(plan.sft, plan.seed, snapshot)
    backbone = Backbone.load(Path(plan.base), stage.dtype)
    figures: dict[str, Any] = {"demonstrations": len(snapshot.training_demonstrations())}
    if plan.sft.reuse:
        _take_over(Path(plan.sft.reuse), adapter)
        figures["reused"] = True
    elif plan.sft.start_from and not lessons.learnt:
        _take_over(Path(plan.sft.start_from), adapter)
        figures |= {"new": 0, "replayed": 0, "steps": 0}
    else:
        figures |= _train(stage, lessons, backbone, adapter)
        give_back()
    if not plan.sft.reuse:
        write_watched(stage.path, lessons)
    figures |= _compare(stage, snapshot.evaluation_demonstrations(), backbone, adapter)
    return StageReport(stage.name, stage.seconds(), figures)


def _take_over(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
        shutil.copyfile(source / name, target / name)


def _train(stage: Stage, lessons: Lessons, backbone: Backbone, adapter: Path) -> dict[str, Any]:
    """Train a fresh or earlier adapter over the backbone's own weights, write it, and leave the
    backbone as it was."""
    plan = stage.plan
    rows = tokenised(backbone.tokenizer, lessons.learnt, plan)
    at_once = rows_at_once(plan.sft.batch_size, plan.micro_batch_size)
    trainer = _trainer(stage, backbone, rows, tokenised(backbone.tokenizer, lessons.watched, plan))
    if plan.sft.start_from:
        _start_from(trainer.model, Path(plan.sft.start_from))
    learns = [each for each in trainer.model.parameters() if each.requires_grad]
    stop = EarlyStop(learns, plan.sft.patience)
    trainer.add_callback(stop)
    loss = train_quietly(trainer, stage, "learning the gold answers")
    stop.restore()
    write_adapter(trainer.model, "default", adapter)
    shutil.rmtree(stage.path / "trainer", ignore_errors=True)
    _strip(trainer.model)
    return {
        "new": len(lessons.new),
        "replayed": len(lessons.replayed),
        "train_loss": loss,
        "steps": trainer.state.global_step,
        "padding_share": trainer.padding.share(),
        "padding_share_random": random_padding_share(
            [len(row["input_ids"]) for row in rows], at_once, plan.seed
        ),
        **_watched_figures(lessons, stop),
    }


def _trainer(stage: Stage, backbone: Backbone, rows: Rows, watched: Rows) -> AnswerTrainer:
    plan = stage.plan
    at_once = rows_at_once(plan.sft.batch_size, plan.micro_batch_size)
    return AnswerTrainer(
        model=backbone.model,
        args=SFTConfig(
            output_dir=str(stage.path / "trainer"),
            num_train_epochs=plan.sft.epochs,
            learning_rate=plan.sft.learning_rate,
            dataset_kwargs={"skip_prepare_dataset": True},
            # Rows that go alone through the model have no padding to save.
            train_sampling_strategy="group_by_length" if at_once > 1 else "random",
            **_looks(plan.sft, bool(watched)),
            **trainer_settings(plan, stage.dtype, plan.sft.batch_size, at_once),
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(watched) if watched else None,
        processing_class=backbone.tokenizer,
        peft_config=lora_config(backbone.model, plan.lora, task_type="CAUSAL_LM"),
    )


def _looks(plan: SftPlan, watched: bool) -> dict[str, Any]:
    """When the held-out loss is measured: after each epoch, or every so many steps."""
    if not watched:
        return {"eval_strategy": "no"}
    size = {"per_device_eval_batch_size": 8, "prediction_loss_only": True}
    if plan.watch_every_steps is None:
        return size | {"eval_strategy": "epoch"}
    return size | {"eval_strategy": "steps", "eval_steps": plan.watch_every_steps}


def _start_from(model: PeftModel, folder: Path) -> None:
    """Give the fresh adapter the weights of a stored one; PlanError where the shapes differ."""
    stored, weights = read_adapter(folder)
    fresh = config_json(model.peft_config["default"])
    for name in ("r", "lora_alpha", "layers_to_transform", "target_modules"):
        if stored.get(name) != fresh[name]:
            raise PlanError(
                f"sft.start_from {folder} has {name} {stored.get(name)}, and the plan makes "
                f"{fresh[name]}; make plan.lora the same, or leave sft.start_from and sft.seen out"
            )
    set_peft_model_state_dict(model, weights)


def _strip(model: PeftModel) -> None:
    """Leave the base weights as they were loaded: no adapter in them, no forward of TRL's."""
    base = model.unload()
    vars(base).pop("forward", None)


def _watched_figures(lessons: Lessons, stop: EarlyStop) -> dict[str, Any]:
    if not stop.losses:
        return {"watched": len(lessons.watched)}
    return {
        "watched": len(lessons.watched),
        "held_out_losses": stop.losses,
        "held_out_loss": stop.best_loss,
        "best_step": stop.best_step,
        "stopped_early": stop.stopped,
    }


def tokenised(tokenizer: Any, demonstrations: Sequence[Demonstration], plan: RunPlan) -> Rows:
    """Prompt and answer as one row of ids; prompt positions carry no loss."""
    rows = []
    for item in demonstrations:
        prompt = prompt_ids(tokenizer, item.prompt, plan.max_prompt_tokens)
        answer = answer_ids(tokenizer, item.answer, plan.max_answer_tokens)
        rows.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    return rows


def rows_at_once(batch_size: int, most: int) -> int:
    """The most rows, up to `most`, of which whole passes make a step of `batch_size`."""
    return max(n for n in range(1, min(most, batch_size) + 1) if batch_size % n == 0)


def trainer_settings(plan: RunPlan, dtype: str, batch_size: int, most: int) -> dict[str, Any]:
    """What SFT and the reward model tell the Trainer alike: `batch_size` examples a step, of
    which at most `most` go through the model together. TRL's defaults of bf16 and gradient
    checkpointing are set on purpose: autocast only on a GPU, no recomputation at this size."""
    on_gpu = torch.cuda.is_available()
    rows = rows_at_once(batch_size, most)
    return {
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": batch_size // rows,
        "use_cpu": not on_gpu,
        "bf16": on_gpu and dtype == "bfloat16",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        # A loss that is not finite must be seen, and not replaced by the mean of those before.
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "seed": plan.seed,
    }


def train_quietly(trainer: Any, stage: Stage, note: str) -> float:
    """Train with progress going to the stage; TrainingError where the loss is not finite."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TrainerWatch(stage, note))
    loss = float(trainer.train().training_loss)
    if not torch.isfinite(torch.tensor(loss)):
        raise TrainingError(
            f"stage {stage.name}: the training loss is {loss}; lower {stage.name}.learning_rate"
        )
    return loss


def _compare(
    stage: Stage, demonstrations: Sequence[Demonstration], backbone: Backbone, adapter: Path
) -> dict[str, Any]:
    if not demonstrations:
        return {"evaluation_questions": 0}
    chosen = demonstrations[: stage.plan.evaluation.max_questions]
    backbone.add_adapter("sft", adapter)
    sheets: dict[str, list[SheetRow]] = {}
    for name, used in (("base", None), ("sft", "sft")):
        sheets[name] = fill_sheet(
            stage.run.path / "answers" / f"{name}.jsonl",
            backbone,
            used,
            chosen,
            stage.plan,
            lambda done, of, name=name: stage.tell(done, of, f"answers of the {name} policy"),  # type: ignore[misc]
        )
    return {"evaluation_questions": len(chosen)} | before_and_after(sheets["base"], sheets["sft"])


def before_and_after(before: Sequence[SheetRow], after: Sequence[SheetRow]) -> dict[str, Any]:
    """Means before and after, and the paired intervals of what was gained in chrF and in exact
    facts; those of facts over the questions whose gold answer states any."""
    figures: dict[str, Any] = {}
    for key in ("chrf", "rouge_l", "cross_entropy", "tokens"):
        for name, rows in (("before", before), ("after", after)):
            figures[f"{key}_{name}"] = sum(getattr(row, key) for row in rows) / len(rows)
    figures |= _gain("chrf", [(a.chrf, b.chrf) for a, b in zip(before, after, strict=True)])
    facts = [
        (a.facts, b.facts)
        for a, b in zip(before, after, strict=True)
        if a.facts is not None and b.facts is not None
    ]
    figures["facts_questions"] = len(facts)
    if facts:
        figures["facts_before"] = sum(early for early, _ in facts) / len(facts)
        figures["facts_after"] = sum(late for _, late in facts) / len(facts)
        figures |= _gain("facts", facts)
    return figures


def _gain(name: str, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    interval = mean_interval([after - before for before, after in pairs])
    return {
        f"{name}_gain": interval.value,
        f"{name}_gain_interval": [interval.lower, interval.upper],
    }
