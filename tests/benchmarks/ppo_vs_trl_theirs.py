"""TRL's side of ppo_vs_trl: `ENVIRONMENT/bin/python -m tests.benchmarks.ppo_vs_trl_theirs JOB`.

PPOTrainer is given what is best for it: LoRA on the policy, so that the reference is the same
network without the adapter; merged reward and value networks; weights in the number format
being compared rather than autocast; no gradient checkpointing; a pad token that is not the end
of a turn; the stop token, without which it would always sample to the end; no sample tables, no
checkpoints. Batches are fixed, and none of them is the last of a pass over the prompts, where
accelerate would step after every part of a batch.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    TrainerCallback,
)

from rlhf_engine.backbone import LINEAR_LAYERS
from rlhf_engine.base_policy import load_tokenizer
from tests.benchmarks.ppo_vs_trl_measured import Clock, Measured, TrlJob, peak_mb
from tests.benchmarks.trl_environment import TRL_VERSION


class Watch(TrainerCallback):  # type: ignore[misc]
    """Times the batches, from when everything is loaded."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Everything is loaded."""
        self._clock.start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A batch is done: sampled, scored and learned from."""
        self._clock.stop()


def run(job: TrlJob) -> Measured:
    """Train as told, and measure."""
    import trl

    if trl.__version__ != TRL_VERSION:
        raise SystemExit(f"trl {trl.__version__} was imported; run this with TRL {TRL_VERSION}")
    torch.set_num_threads(job.threads)
    clock = Clock()
    trainer = _trainer(job, clock)
    sampled: list[float] = []
    sampling_s = _watch_sampling(sampled, trainer.processing_class.pad_token_id)
    trainer.train()
    seconds, cpu_s = clock.seconds()
    last = next(row for row in reversed(trainer.state.log_history) if "val/ratio" in row)
    return Measured(
        episodes=job.batch * job.batches,
        seconds=seconds,
        cpu_s=cpu_s,
        peak_mb=peak_mb(),
        answer_tokens=sum(sampled) / (job.batch * job.batches),
        phases={"rollout": sum(sampling_s)},
        figures={"ratio": last["val/ratio"], "kl": last["objective/kl"]},
    )


def _trainer(job: TrlJob, clock: Clock) -> Any:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = load_tokenizer(Path(job.base))
    prompts = Dataset.from_dict({"input_ids": [*job.prompts, *job.prompts[: job.batch]]})
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=job.folder,
            per_device_train_batch_size=job.rows,
            gradient_accumulation_steps=job.batch // job.rows,
            num_mini_batches=1,
            num_ppo_epochs=job.epochs,
            total_episodes=job.batch * job.batches,
            local_rollout_forward_batch_size=job.rollout_rows,
            response_length=job.answer_tokens,
            temperature=job.temperature,
            learning_rate=job.learning_rate,
            stop_token="eos",
            missing_eos_penalty=1.0,
            num_sample_generations=0,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
        processing_class=tokenizer,
        model=_policy(job, tokenizer),
        ref_model=None,
        reward_model=_scorer(job, tokenizer, frozen=True),
        value_model=_scorer(job, tokenizer, frozen=job.frozen_value),
        train_dataset=prompts,
        peft_config=LoraConfig(
            r=job.rank,
            lora_alpha=job.alpha,
            lora_dropout=0.0,
            target_modules=list(LINEAR_LAYERS),
            task_type="CAUSAL_LM",
        ),
        callbacks=[Watch(clock)],
    )
    fixed = DataLoader(prompts, job.batch, collate_fn=trainer.data_collator, drop_last=True)
    trainer.dataloader = trainer.accelerator.prepare(fixed)
    return trainer


def _policy(job: TrlJob, tokenizer: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(job.base, dtype=getattr(torch, job.dtype))
    # Whatever else the base's own configuration says would shape the samples.
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def _scorer(job: TrlJob, tokenizer: Any, *, frozen: bool) -> Any:
    """A reward or value network: the base's weights and the score head; `frozen` leaves at
    most the head to learn."""
    model = AutoModelForSequenceClassification.from_pretrained(
        job.base, num_labels=1, dtype=getattr(torch, job.dtype)
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    head = load_file(job.head)["score"]
    with torch.no_grad():
        model.score.weight.copy_(head)
    if frozen:
        model.model.requires_grad_(False)
    return model


def _watch_sampling(answer_tokens: list[float], pad_id: int) -> list[float]:
    """Count the tokens of sampled answers; returns the seconds of each batch's sampling."""
    from trl.experimental.ppo import ppo_trainer

    sample, seconds = ppo_trainer.batch_generation, []

    def watched(model: Any, queries: torch.Tensor, *others: Any) -> Any:
        before = time.monotonic()
        found = sample(model, queries, *others)
        seconds.append(time.monotonic() - before)
        answer_tokens.append(float((found[0][:, queries.shape[1] :] != pad_id).sum()))
        return found

    ppo_trainer.batch_generation = watched
    return seconds


def main(argv: list[str]) -> int:
    """Run the job in the file named, and leave what was measured beside it."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    warnings.simplefilter("ignore")
    path = Path(argv[0])
    job = TrlJob(**json.loads(path.read_text(encoding="utf-8")))
    run(job).write(path.with_suffix(".measured"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
