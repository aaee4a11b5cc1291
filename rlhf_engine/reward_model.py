"""Stage reward_model: learn from comparisons what a person would prefer, by TRL's RewardTrainer.

A reward model is a LoRA adapter over the base policy and a linear score head read at
the end-of-turn token. Its scores are shifted and scaled to mean 0 and deviation 1 over
the training answers, so that PPO's settings mean the same in every run.

    STAGE/adapter/...        LoRA weights and `score`, as RewardTrainer leaves them
    STAGE/scale.json         mean and deviation of the raw scores
    STAGE/critic.safetensors the critic that PPO starts with (critic.py)
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from rlhf_engine.backbone import (
    SCORE_KEY,
    AnswerGroups,
    Backbone,
    lora_config,
    read_adapter,
    write_adapter,
)
from rlhf_engine.base_policy import load_tokenizer
from rlhf_engine.critic import Critic
from rlhf_engine.errors import SnapshotError, TrainingError
from rlhf_engine.files import write_json
from rlhf_engine.plan import RewardPlan, RunPlan
from rlhf_engine.records import Comparison, Prompt, StageReport
from rlhf_engine.render import answer_ids, prompt_ids
from rlhf_engine.sft import train_quietly, trainer_settings
from rlhf_engine.snapshot import Snapshot
from rlhf_engine.stage import Stage
from rlhf_engine.statistics import share_interval

SCALE = "scale.json"
CRITIC = "critic.safetensors"


class ScoreHead(nn.Linear):
    """A score head kept in float32 over a base policy of any number format."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class's name for it
        """Hidden states [..., h] to scores [..., 1]."""
        return nn.functional.linear(input.float(), self.weight)


class RewardModel:
    """Scores answers with the reward adapter of a backbone.

    `states` gives what the critic reads: the reward adapter's hidden states.
    """

    ADAPTER = "reward"

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        config, weights = read_adapter(folder / "adapter")
        if not backbone.has_adapter(self.ADAPTER):
            backbone.install_adapter(self.ADAPTER, config, weights)
        scale = json.loads((folder / SCALE).read_text(encoding="utf-8"))
        self.backbone = backbone
        self.mean, self.deviation = float(scale["mean"]), float(scale["deviation"])
        self.head = weights[SCORE_KEY].float().squeeze(0).to(backbone.device)

    @torch.inference_mode()
    def states(self, groups: AnswerGroups) -> tuple[Tensor, Tensor]:
        """Scores [k, b] of the k heads, and hidden states [b, t, h] before each answer token.

        The state at position i has read the prompt and the answer's first i tokens: what
        a critic may know when token i is drawn. The score is read after the last token;
        an empty answer is read at the end of its prompt.
        """
        with self.backbone.using(self.ADAPTER):
            hidden = self.backbone.states(groups).float()
        raw = hidden[torch.arange(len(hidden)), groups.lengths] @ self.head
        return ((raw - self.mean) / self.deviation).unsqueeze(0), hidden[:, :-1]

    def scores(self, groups: AnswerGroups) -> Tensor:
        """Scores [k, b], normalised."""
        return self.states(groups)[0]

    def score_texts(
        self, prompts: Sequence[Prompt], answers: Sequence[str], plan: RunPlan, batch_size: int = 8
    ) -> list[float]:
        """Scores of written answers, rendered as everywhere."""
        result: list[float] = []
        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            batch = text_batch(self.backbone, prompts[part], answers[part], plan)
            result.extend(self.scores(batch).mean(dim=0).tolist())
        return result


def text_batch(
    backbone: Backbone, prompts: Sequence[Prompt], answers: Sequence[str], plan: RunPlan
) -> AnswerGroups:
    """Prompts with written answers, ready to be scored."""
    tokenizer = backbone.tokenizer
    return backbone.group(
        [prompt_ids(tokenizer, prompt, plan.max_prompt_tokens) for prompt in prompts],
        [answer_ids(tokenizer, answer, plan.max_answer_tokens) for answer in answers],
    )


def run_reward_model(stage: Stage, snapshot: Snapshot) -> StageReport:
    """Train on the comparisons of the training side, then measure on the held-out ones."""
    decisive = [item for item in snapshot.comparisons if item.decisive]
    train = [item for item in decisive if item.prompt.split == "train"]
    held_out = [item for item in decisive if item.prompt.split != "train"]
    if len(train) < stage.plan.reward_model.min_comparisons:
        raise SnapshotError(
            f"{len(train)} comparisons with a clear choice are too few for a reward model; "
            f"at least {stage.plan.reward_model.min_comparisons} are needed"
        )
    figures: dict[str, Any] = {
        "comparisons": len(snapshot.comparisons),
        "decisive": len(decisive),
        "simulated": sum(item.simulated for item in snapshot.comparisons),
        "train": len(train),
    }
    figures |= _train(stage, train)
    backbone = Backbone.load(Path(stage.plan.base), stage.dtype)
    _scale(stage, backbone, train)
    figures |= measure(RewardModel(backbone, stage.path), held_out, stage)
    return StageReport(stage.name, stage.seconds(), figures)


def _train(stage: Stage, comparisons: Sequence[Comparison]) -> dict[str, float]:
    plan = stage.plan
    tokenizer = load_tokenizer(Path(plan.base))
    rows = tokenised(tokenizer, comparisons, plan)
    model = _classifier(stage, tokenizer.pad_token_id)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            output_dir=str(stage.path / "trainer"),
            num_train_epochs=plan.reward_model.epochs,
            learning_rate=plan.reward_model.learning_rate,
            center_rewards_coefficient=0.01,
            max_length=None,
            # A comparison is two rows.
            **trainer_settings(
                plan,
                stage.dtype,
                plan.reward_model.batch_size,
                max(1, plan.micro_batch_size // 2),
            ),
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    loss = train_quietly(trainer, stage, "learning from comparisons")
    write_adapter(trainer.model, "default", stage.path / "adapter")
    shutil.rmtree(stage.path / "trainer", ignore_errors=True)
    return {"train_loss": loss, "steps": trainer.state.global_step}


def _classifier(stage: Stage, pad_id: int) -> Any:
    """Base weights, a fresh score head, and LoRA that starts from the SFT policy's."""
    torch.manual_seed(stage.plan.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        stage.plan.base,
        num_labels=1,
        dtype=getattr(torch, stage.dtype),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model.config.get_text_config().pad_token_id = pad_id
    head = ScoreHead(model.score.in_features, 1, bias=False, dtype=torch.float32)
    nn.init.normal_(head.weight, std=1 / math.sqrt(model.score.in_features + 1))
    model.score = head
    config = lora_config(model, stage.plan.lora, task_type="SEQ_CLS", modules_to_save=["score"])
    wrapped = get_peft_model(model, config)
    sft = stage.run.stage_path("sft") / "adapter"
    stored, weights = read_adapter(sft)
    if stored["r"] == config.r and stored.get("layers_to_transform") == config.layers_to_transform:
        set_peft_model_state_dict(wrapped, {**weights, SCORE_KEY: head.weight.detach()})
    return wrapped


def tokenised(
    tokenizer: Any, comparisons: Sequence[Comparison], plan: RunPlan
) -> list[dict[str, Any]]:
    """Chosen and rejected ids with the margin of the strength of preference."""
    rows = []
    for item in comparisons:
        prompt = prompt_ids(tokenizer, item.prompt, plan.max_prompt_tokens)
        rows.append(
            {
                "chosen_ids": prompt + answer_ids(tokenizer, item.chosen, plan.max_answer_tokens),
                "rejected_ids": prompt
                + answer_ids(tokenizer, item.rejected, plan.max_answer_tokens),
                "margin": margin(item, plan.reward_model),
            }
        )
    return rows


def margin(comparison: Comparison, plan: RewardPlan) -> float:
    """By how much the chosen score should exceed the rejected one, in raw score units."""
    by_strength = {"slightly": plan.margin_slightly, "much": plan.margin_much}
    return by_strength.get(comparison.strength or "", plan.margin_unsaid)


def _scale(stage: Stage, backbone: Backbone, comparisons: Sequence[Comparison]) -> None:
    """Write the scale of the scores, and the critic that PPO starts with, from one pass over the
    answers of the training side."""
    write_json(stage.path / SCALE, {"mean": 0.0, "deviation": 1.0})
    model = RewardModel(backbone, stage.path)
    raw, states, answers = _read_answers(model, comparisons, stage)
    mean, deviation = float(raw.mean()), max(float(raw.std()), 1e-3)
    if not math.isfinite(mean + deviation):
        raise TrainingError("the reward model's scores are not finite; lower its learning_rate")
    Critic.fitted(states, ((raw - mean) / deviation)[answers], answers).save(stage.path / CRITIC)
    write_json(stage.path / SCALE, {"mean": mean, "deviation": deviation})


def _read_answers(
    model: RewardModel, comparisons: Sequence[Comparison], stage: Stage
) -> tuple[Tensor, Tensor, Tensor]:
    """Raw scores [a] of the a answers; states [n, h] of all their tokens, and each token's
    answer's number [n]."""
    pairs = [(item.prompt, text) for item in comparisons for text in (item.chosen, item.rejected)]
    scores, states, numbers = [], [], []
    for start in range(0, len(pairs), 8):
        prompts, texts = zip(*pairs[start : start + 8], strict=True)
        batch = text_batch(model.backbone, prompts, texts, stage.plan)
        score, state = model.states(batch)
        kept = batch.answer_mask.bool()
        scores.append(score.mean(dim=0).cpu())
        states.append(state[kept].cpu())
        row = torch.arange(start, start + len(texts)).unsqueeze(1).expand(kept.shape)
        numbers.append(row[kept.cpu()])
        stage.tell(min(start + 8, len(pairs)), len(pairs), "scaling the scores")
    return torch.cat(scores), torch.cat(states), torch.cat(numbers)


def _pair_scores(
    model: RewardModel, comparisons: Sequence[Comparison], stage: Stage, note: str
) -> list[tuple[float, float]]:
    pairs: list[tuple[float, float]] = []
    for start in range(0, len(comparisons), 4):
        part = comparisons[start : start + 4]
        prompts = [item.prompt for item in part]
        answers = [item.chosen for item in part] + [item.rejected for item in part]
        scores = model.score_texts([*prompts, *prompts], answers, stage.plan)
        pairs.extend(zip(scores[: len(part)], scores[len(part) :], strict=True))
        stage.tell(len(pairs), len(comparisons), note)
    return pairs


def measure(model: RewardModel, comparisons: Sequence[Comparison], stage: Stage) -> dict[str, Any]:
    """Held-out accuracy with its interval, beside the accuracy of "the longer answer wins"."""
    pairs = _pair_scores(model, comparisons, stage, "measuring on held-out comparisons")
    right = share_interval(sum(chosen > rejected for chosen, rejected in pairs), len(pairs))
    longer = share_interval(
        sum(len(item.chosen) > len(item.rejected) for item in comparisons), len(comparisons)
    )
    return {
        "held_out": len(pairs),
        "accuracy": right.value,
        "accuracy_interval": [right.lower, right.upper],
        "longer_wins_accuracy": longer.value,
        "longer_wins_interval": [longer.lower, longer.upper],
    }
