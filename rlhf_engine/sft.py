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
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from rlhf_engine.answer_sheet import SheetRow, fill_sheet
from rlhf_engine.backbone import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Backbone,
    lora_config,
    write_adapter,
)
from rlhf_engine.errors import TrainingError
from rlhf_engine.plan import RunPlan
from rlhf_engine.records import Demonstration, StageReport
from rlhf_engine.render import answer_ids, prompt_ids
from rlhf_engine.snapshot import Snapshot
from rlhf_engine.stage import Stage, TrainerWatch
from rlhf_engine.statistics import mean_interval

IGNORED = -100


def run_sft(stage: Stage, snapshot: Snapshot) -> StageReport:
    """Train, or take over an adapter trained on the same demonstrations; then compare."""
    adapter = stage.path / "adapter"
    figures: dict[str, Any] = {"demonstrations": len(snapshot.training_demonstrations())}
    if stage.plan.sft.reuse:
        _take_over(Path(stage.plan.sft.reuse), adapter)
        figures["reused"] = True
    else:
        figures |= _train(stage, snapshot.training_demonstrations(), adapter)
    figures |= _compare(stage, snapshot.evaluation_demonstrations(), adapter)
    return StageReport(stage.name, stage.seconds(), figures)


def _take_over(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
        shutil.copyfile(source / name, target / name)


def _train(
    stage: Stage, demonstrations: Sequence[Demonstration], adapter: Path
) -> dict[str, float]:
    plan = stage.plan
    backbone = Backbone.load(Path(plan.base), stage.dtype)
    trainer = SFTTrainer(
        model=backbone.model,
        args=SFTConfig(
            output_dir=str(stage.path / "trainer"),
            num_train_epochs=plan.sft.epochs,
            learning_rate=plan.sft.learning_rate,
            dataset_kwargs={"skip_prepare_dataset": True},
            **trainer_settings(plan, stage.dtype, plan.sft.batch_size, plan.micro_batch_size),
        ),
        train_dataset=Dataset.from_list(tokenised(backbone.tokenizer, demonstrations, plan)),
        processing_class=backbone.tokenizer,
        peft_config=lora_config(backbone.model, plan.lora, task_type="CAUSAL_LM"),
    )
    loss = train_quietly(trainer, stage, "learning the gold answers")
    write_adapter(trainer.model, "default", adapter)
    shutil.rmtree(stage.path / "trainer", ignore_errors=True)
    return {"train_loss": loss, "steps": trainer.state.global_step}


def tokenised(
    tokenizer: Any, demonstrations: Sequence[Demonstration], plan: RunPlan
) -> list[dict[str, list[int]]]:
    """Prompt and answer as one row of ids; prompt positions carry no loss."""
    rows = []
    for item in demonstrations:
        prompt = prompt_ids(tokenizer, item.prompt, plan.max_prompt_tokens)
        answer = answer_ids(tokenizer, item.answer, plan.max_answer_tokens)
        rows.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    return rows


def trainer_settings(plan: RunPlan, dtype: str, batch_size: int, at_once: int) -> dict[str, Any]:
    """What SFT and the reward model tell the Trainer alike: `batch_size` examples a step, of
    which `at_once` go through the model together. TRL's defaults of bf16 and gradient
    checkpointing are set on purpose: autocast only on a GPU, no recomputation at this size."""
    on_gpu = torch.cuda.is_available()
    rows = min(at_once, batch_size)
    return {
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": max(1, batch_size // rows),
        "use_cpu": not on_gpu,
        "bf16": on_gpu and dtype == "bfloat16",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
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
    stage: Stage, demonstrations: Sequence[Demonstration], adapter: Path
) -> dict[str, Any]:
    if not demonstrations:
        return {"evaluation_questions": 0}
    chosen = demonstrations[: stage.plan.evaluation.max_questions]
    backbone = Backbone.load(Path(stage.plan.base), stage.dtype)
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
    """Means before and after, and the paired interval of the chrF gain."""
    figures: dict[str, Any] = {}
    for key in ("chrf", "rouge_l", "cross_entropy", "tokens"):
        for name, rows in (("before", before), ("after", after)):
            figures[f"{key}_{name}"] = sum(getattr(row, key) for row in rows) / len(rows)
    gains = [b.chrf - a.chrf for a, b in zip(before, after, strict=True)]
    interval = mean_interval(gains)
    figures["chrf_gain"] = interval.value
    figures["chrf_gain_interval"] = [interval.lower, interval.upper]
    return figures
