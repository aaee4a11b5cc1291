"""Best-of-n: answer n times, keep the best, learn it by SFT. The control arm of PPO.

It draws as many answers as PPO with the same plan would, `rollout_batches` times
`rollout_size`, with the same prompts, judge, signals and reward, but all from the SFT policy;
n is `answers_per_prompt`. The best answer of each n is then learnt as a gold answer is, with the
settings of the plan's `sft`, from the SFT adapter on (rejection sampling as in Llama 2, Touvron
et al. 2023, arXiv 2307.09288, section 3.2.3, in one round).

SFT here is a short loop of its own and not TRL's trainer: the backbone, its SFT adapter and
the laid-out answers are there already, and a trainer would ask for all three anew.

Legend: b answers, n answers a prompt, t answer tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_engine import ppo_math, ppo_metrics
from rlhf_engine.backbone import AnswerGroups
from rlhf_engine.critic import Critic
from rlhf_engine.errors import PlanError, TrainingError
from rlhf_engine.ppo_checkpoint import load_checkpoint, save_checkpoint
from rlhf_engine.ppo_control import RewardScale
from rlhf_engine.records import StageReport
from rlhf_engine.render import prompt_ids
from rlhf_engine.rollout import POLICY, Rollout, Rollouts, stream
from rlhf_engine.stage import Stage

WARMUP_STEPS = 2


class BestOfN:
    """The draws and what was kept of them; the rollouts' backbone holds the adapters "policy",
    which learns, and "reference", equal at the start."""

    def __init__(self, stage: Stage, rollouts: Rollouts, critic: Critic) -> None:
        if rollouts.processes.count > 1:
            raise PlanError("PpoPlan.algorithm best_of_n runs in one process; start it alone")
        self.stage, self.plan = stage, stage.plan
        self.rollouts, self.critic = rollouts, critic
        self.backbone, self.processes = rollouts.backbone, rollouts.processes
        self.prompts = {prompt.id: prompt for prompt in rollouts.prompts}
        self.parameters = self.backbone.adapter_parameters(POLICY)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.plan.sft.learning_rate, weight_decay=0.0
        )
        self.scale = RewardScale.starting(self.plan.ppo.rollout_size)
        self.kept: list[tuple[str, list[int]]] = []
        self.scores: list[float] = []
        self.history: list[dict[str, float]] = []

    def run(self) -> StageReport:
        """Draw from the last checkpoint on, then learn; the adapter ends in STAGE/adapter."""
        checkpoint = self.stage.run.checkpoint_path(self.stage.name)
        for number in range(self._restore(checkpoint), self.plan.ppo.rollout_batches):
            self._draw(number)
            self._save(checkpoint)
            self.stage.run.append_metrics({"batch": number, **self.history[-1]})
            self.stage.draw()
        losses = self._learn()
        self.backbone.save_adapter(POLICY, self.stage.path / "adapter")
        return StageReport(self.stage.name, self.stage.seconds(), self._figures(losses))

    def _draw(self, number: int) -> None:
        """One rollout batch: its figures, and the best answer to each prompt."""
        # Each answer is drawn and judged.
        batch = 2 * self.plan.ppo.rollout_size
        total = self.plan.ppo.rollout_batches * batch

        def passed(passes: int) -> None:
            self.stage.tell(number * batch + passes, total, "drawing answers")

        rollout = self.rollouts.draw(number, self.critic, 0.0, self.scale, passed)
        best = best_places(rollout.readings["reward"], self.plan.ppo.answers_per_prompt)
        self.kept += [_kept(rollout, place) for place in best]
        self.scores += [rollout.readings["score"][place] for place in best]
        self.history.append(
            {
                **ppo_metrics.of_rollout(rollout, self.processes, 0.0),
                "best_of_n/kept": float(len(best)),
                "best_of_n/score": sum(self.scores) / max(1, len(self.scores)),
                "time/rollout": rollout.drawing_s,
                "time/score": rollout.scoring_s,
            }
        )

    def _learn(self) -> list[float]:
        """SFT on what was kept; each step's loss. A resumed run learns from the start again."""
        sft, count = self.plan.sft, len(self.kept)
        steps = math.ceil(sft.epochs * count / sft.batch_size)
        losses: list[float] = []
        order: list[int] = []
        while len(losses) < steps:
            if not order:
                order = list(range(count))
                stream(self.plan.seed, "best_of_n", len(losses)).shuffle(order)
            chosen, order = order[: sft.batch_size], order[sft.batch_size :]
            self.stage.tell(len(losses), steps, "learning the best answers")
            self.optimizer.param_groups[0]["lr"] = sft.learning_rate * share(len(losses), steps)
            losses.append(self._step(chosen))
        return losses

    def _step(self, chosen: Sequence[int]) -> float:
        """One optimizer step; the mean loss over the answer tokens, in nats."""
        self.optimizer.zero_grad(set_to_none=True)
        tokens, total = sum(len(self.kept[at][1]) for at in chosen), 0.0
        size = self.plan.micro_batch_size
        for start in range(0, len(chosen), size):
            part = self._groups(chosen[start : start + size])
            loss = self._loss(part) * (float(part.answer_mask.sum()) / max(tokens, 1))
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not math.isfinite(total + float(norm)):
            raise TrainingError(
                f"stage ppo: the loss of the best answers is {total}; lower sft.learning_rate"
            )
        self.optimizer.step()
        return total

    def _groups(self, chosen: Sequence[int]) -> AnswerGroups:
        tokenizer, longest = self.backbone.tokenizer, self.plan.max_prompt_tokens
        asked = [self.prompts[self.kept[at][0]] for at in chosen]
        return self.backbone.group(
            [prompt_ids(tokenizer, prompt, longest) for prompt in asked],
            [self.kept[at][1] for at in chosen],
        )

    def _loss(self, groups: AnswerGroups) -> Tensor:
        with self.backbone.using(POLICY, trainable=True):
            logits = self.backbone.logits(groups)
        logprobs = ppo_math.gathered_logprobs(logits, groups.answers, temperature=1.0)
        return -ppo_math.masked_mean(logprobs, groups.answer_mask)

    def _figures(self, losses: Sequence[float]) -> dict[str, Any]:
        figures = ppo_metrics.figures(self.history, stopped_by_kl=False, skipped=0)
        if losses:
            figures["train_loss"] = sum(losses) / len(losses)
        figures["best_of_n/score"] = self.history[-1]["best_of_n/score"]
        return figures | {"best_of_n/kept": len(self.kept), "steps": len(losses)}

    def _save(self, path: Path) -> None:
        state = {
            "scale": asdict(self.scale),
            "kept": self.kept,
            "scores": self.scores,
            "history": self.history,
        }
        save_checkpoint(path, [self.optimizer], [], state)

    def _restore(self, path: Path) -> int:
        """Take up what was drawn; the number of the next batch."""
        state = load_checkpoint(path, [self.optimizer], [])
        if state is None:
            return 0
        self.scale = RewardScale(**state["scale"])
        self.kept = [(prompt_id, list(tokens)) for prompt_id, tokens in state["kept"]]
        self.scores, self.history = state["scores"], state["history"]
        ppo_metrics.append_missing(self.stage.run, self.history)
        return len(self.history)


def best_places(rewards: dict[int, float], n: int) -> list[int]:
    """The place of the best of each prompt's n answers, which lie at i n to i n + n - 1.

    Where all n have the same reward none is better, and none is kept; of equal best ones the
    first is.
    """
    best = []
    for first in range(0, len(rewards), n):
        group = range(first, first + n)
        chosen = max(group, key=lambda place: rewards[place])
        if n == 1 or rewards[chosen] > min(rewards[place] for place in group):
            best.append(chosen)
    return best


def share(step: int, steps: int) -> float:
    """Share of the learning rate at a step: two steps of warm-up, then half a cosine to 0, as
    in the stage sft."""
    if step < WARMUP_STEPS:
        return step / WARMUP_STEPS
    gone = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return 0.5 * (1 + math.cos(math.pi * gone))


def _kept(rollout: Rollout, place: int) -> tuple[str, list[int]]:
    answer = rollout.answers[place]
    return answer.prompt_id, list(answer.token_ids)
