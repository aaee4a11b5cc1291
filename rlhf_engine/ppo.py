"""Stage ppo: tune the policy against the reward model, with no person in the loop.

For each rollout batch: the policy answers prompts; the reward model and the plugins'
reward signals score the answers; the KL to the SFT policy is taken off; a critic
estimates values; advantages follow by GAE; policy and critic take clipped steps.

The critic (critic.py) is a linear head over the reward model's hidden states. It costs no
forward pass of its own, since scoring computes those states anyway, and its gradient
reaches neither the policy nor the reward model.

After each rollout batch everything that decides the future is written, so that a killed
run goes on from its last batch.

Legend: b batch, t answer tokens, h hidden width.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_engine import ppo_math
from rlhf_engine.backbone import AnswerGroups, Backbone
from rlhf_engine.critic import Critic
from rlhf_engine.errors import SnapshotError, TrainingError
from rlhf_engine.generation import generate
from rlhf_engine.ppo_checkpoint import load_checkpoint, save_checkpoint
from rlhf_engine.records import Prompt, SampledAnswer, SamplingSettings, SignalInput, StageReport
from rlhf_engine.render import prompt_ids
from rlhf_engine.reward_model import CRITIC, RewardModel
from rlhf_engine.signals import RewardSignal, read_signal
from rlhf_engine.snapshot import Snapshot
from rlhf_engine.stage import Stage

POLICY, REFERENCE = "policy", "reference"
MAX_FIRST_RATIO_ERROR = 1e-3
MAX_FIRST_KL = 1e-2
MAX_SKIPPED_IN_A_ROW = 3


@dataclass
class Part:
    """Rows of a rollout that go through the backbone together, with all that the update needs;
    tensors are [b, t], but `scores` [b] and `states` [b, t, h]."""

    rows: list[int]
    batch: AnswerGroups
    states: Tensor
    logprobs: Tensor
    reference: Tensor
    scores: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    @property
    def mask(self) -> Tensor:
        """1 on answer tokens."""
        return self.batch.answer_mask

    @property
    def kl(self) -> Tensor:
        """k1 estimate of each token's KL to the SFT policy."""
        return ppo_math.kl_k1(self.logprobs, self.reference)


Minibatch = list[Part]
"""The parts whose gradients add up to one optimizer step."""


def run_ppo(stage: Stage, snapshot: Snapshot, signals: Sequence[RewardSignal]) -> StageReport:
    """Tune a copy of the SFT policy; the adapter ends in STAGE/adapter."""
    prompts = [prompt for prompt in snapshot.prompts if prompt.split == "train"]
    if not prompts:
        raise SnapshotError("the snapshot holds no prompt to tune on")
    return _Ppo(stage, prompts, _gold_answers(snapshot), signals).run()


def _gold_answers(snapshot: Snapshot) -> dict[str, str]:
    return {item.prompt.question: item.answer for item in snapshot.training_demonstrations()}


class _Ppo:
    """The loop and what it carries from batch to batch."""

    def __init__(
        self,
        stage: Stage,
        prompts: Sequence[Prompt],
        golds: dict[str, str],
        signals: Sequence[RewardSignal],
    ) -> None:
        self.stage, self.plan, self.ppo = stage, stage.plan, stage.plan.ppo
        self.prompts, self.golds, self.signals = prompts, golds, signals
        sft = stage.run.stage_path("sft") / "adapter"
        self.backbone = Backbone.load(Path(self.plan.base), stage.dtype)
        self.backbone.add_adapter(REFERENCE, sft)
        self.backbone.add_adapter(POLICY, sft)
        self.reward_model = RewardModel(self.backbone, stage.run.stage_path("reward_model"))
        self.critic = Critic.load(stage.run.stage_path("reward_model") / CRITIC)
        self.critic.to(self.backbone.device)
        self.parameters = self.backbone.adapter_parameters(POLICY)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.ppo.learning_rate, weight_decay=0.0, eps=1e-5
        )
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=self.ppo.critic_learning_rate, weight_decay=0.0
        )
        self.skipped = self.skipped_in_a_row = 0
        self.history: list[dict[str, float]] = []

    def run(self) -> StageReport:
        """All rollout batches from the last checkpoint on."""
        checkpoint = self.stage.path / "checkpoint.safetensors"
        first = self._restore(checkpoint)
        stopped_by_kl = bool(self.history) and self._above_kl(self.history[-1])
        for number in range(first, self.ppo.rollout_batches):
            if stopped_by_kl:
                break
            self.stage.tell(number, self.ppo.rollout_batches, "tuning the policy")
            metrics = self._batch(number)
            stopped_by_kl = self._above_kl(metrics)
            self.history.append(metrics)
            self._save(checkpoint, number + 1)
            self.stage.run.append_metrics({"batch": number, **metrics})
        self.stage.tell(self.ppo.rollout_batches, self.ppo.rollout_batches, "tuning the policy")
        self.backbone.save_adapter(POLICY, self.stage.path / "adapter")
        checkpoint.unlink(missing_ok=True)
        return StageReport(self.stage.name, self.stage.seconds(), self._figures(stopped_by_kl))

    def _batch(self, number: int) -> dict[str, float]:
        """One rollout batch and the update from it."""
        times = {"started": time.monotonic()}
        prompts = self._prompts_of(number)
        answers = self._answer(number, prompts)
        times["rollout"] = time.monotonic()
        minibatches, rewards = self._score(number, prompts, answers)
        times["score"] = time.monotonic()
        too_far = _kl_of(minibatches) > self.ppo.max_kl
        updates = {} if too_far else self._update(number, minibatches)
        times["update"] = time.monotonic()
        return self._metrics(minibatches, answers, rewards, updates, times)

    def _prompts_of(self, number: int) -> list[Prompt]:
        """The batch's prompts: walks through shuffled passes over the prompt set, and repeats
        prompts where the set is smaller than a batch."""
        count, size = len(self.prompts), self.ppo.rollout_size
        picked = []
        for place in range(number * size, (number + 1) * size):
            order = list(range(count))
            _stream(self.plan.seed, "prompts", place // count).shuffle(order)
            picked.append(self.prompts[order[place % count]])
        return picked

    def _answer(self, number: int, prompts: Sequence[Prompt]) -> list[SampledAnswer]:
        seeds = [
            _stream(self.plan.seed, "answer", number, row).getrandbits(31)
            for row in range(len(prompts))
        ]
        settings = SamplingSettings(
            temperature=self.ppo.temperature, max_new_tokens=self.plan.max_answer_tokens
        )
        return generate(
            self.backbone,
            POLICY,
            prompts,
            seeds,
            settings,
            max_prompt_tokens=self.plan.max_prompt_tokens,
        )

    def _score(
        self, number: int, prompts: Sequence[Prompt], answers: Sequence[SampledAnswer]
    ) -> tuple[list[Minibatch], dict[str, Tensor]]:
        """Rewards, values and advantages, in the minibatches that the update will use: the same
        rows at the same padding give the same log-probabilities to the last bit."""
        readings = self._readings(prompts, answers)
        minibatches = [
            [self._evaluated(rows, prompts, answers) for rows in self._parts(minibatch, answers)]
            for minibatch in self._partition(number, len(answers))
        ]
        rewards = {"score": torch.zeros(len(prompts)), "total": torch.zeros(len(prompts))}
        for part in _parts_of(minibatches):
            total = self._total_scores(part, answers, readings)
            rewards["score"][part.rows], rewards["total"][part.rows] = (
                part.scores.cpu(),
                total.cpu(),
            )
            token_rewards = ppo_math.token_rewards(
                total, part.kl, part.mask, self.ppo.kl_coefficient
            )
            part.advantages, part.returns = ppo_math.advantages(
                token_rewards, part.values, part.mask, self.ppo.gamma, self.ppo.gae_lambda
            )
        _whiten_together(minibatches)
        return minibatches, rewards | readings

    def _readings(
        self, prompts: Sequence[Prompt], answers: Sequence[SampledAnswer]
    ) -> dict[str, Tensor]:
        """Each signal's readings [b], named reward/<signal>; an abstention reads as 0."""
        inputs = [
            SignalInput(prompt, answer.text, self.golds.get(prompt.question))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return {
            f"reward/{signal.name}": torch.tensor(
                [0.0 if reading is None else reading for reading in read_signal(signal, inputs)]
            )
            for signal in self.signals
        }

    def _partition(self, number: int, count: int) -> list[list[int]]:
        """The rows of each minibatch, drawn anew for each rollout batch."""
        order = list(range(count))
        _stream(self.plan.seed, "partition", number).shuffle(order)
        size = self.ppo.minibatch_size
        return [order[start : start + size] for start in range(0, count, size)]

    def _parts(self, rows: list[int], answers: Sequence[SampledAnswer]) -> list[list[int]]:
        """A minibatch's rows in parts of like length, small enough for memory."""
        ordered = sorted(rows, key=lambda at: (len(answers[at].token_ids), at))
        size = self.plan.micro_batch_size
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    @torch.no_grad()
    def _evaluated(
        self, rows: list[int], prompts: Sequence[Prompt], answers: Sequence[SampledAnswer]
    ) -> Part:
        tokenizer = self.backbone.tokenizer
        batch = self.backbone.group(
            [prompt_ids(tokenizer, prompts[at], self.plan.max_prompt_tokens) for at in rows],
            [answers[at].token_ids for at in rows],
        )
        scores, states = self.reward_model.states(batch)
        values = self.critic(states)
        empty = torch.zeros_like(values)
        return Part(
            rows=rows,
            batch=batch,
            states=states.clone(),
            logprobs=self._logprobs(POLICY, batch),
            reference=self._logprobs(REFERENCE, batch),
            scores=scores.mean(dim=0),
            values=values,
            advantages=empty,
            returns=empty,
        )

    def _logprobs(self, adapter: str, batch: AnswerGroups) -> Tensor:
        with self.backbone.using(adapter):
            logits = self.backbone.logits(batch)
        return ppo_math.gathered_logprobs(logits, batch.answers, self.ppo.temperature)

    def _total_scores(
        self, part: Part, answers: Sequence[SampledAnswer], readings: dict[str, Tensor]
    ) -> Tensor:
        """Score plus weighted readings, minus the penalty of answers that did not end; [b]."""
        total = part.scores.clamp(-self.ppo.reward_clip, self.ppo.reward_clip)
        for signal in self.signals:
            reading = readings[f"reward/{signal.name}"][part.rows]
            total = total + signal.weight * reading.to(total.device)
        unended = torch.tensor(
            [answers[at].finish_reason != "stop" for at in part.rows], device=total.device
        )
        total = total - self.ppo.missing_eos_penalty * unended
        if not torch.isfinite(total).all():
            raise TrainingError(
                "stage ppo: a reward is not finite; the reward model is damaged, train it again"
            )
        return total

    def _update(self, number: int, minibatches: list[Minibatch]) -> dict[str, float]:
        """Several epochs of clipped steps, the critic before the policy; means over all steps."""
        seen = [
            self._critic_step(minibatch)
            for epoch in range(self.ppo.critic_epochs)
            for minibatch in self._order(number, "critic", epoch, minibatches)
        ]
        figures = _means(seen)
        if number < self.ppo.critic_warmup_batches:
            return figures
        seen = []
        for epoch in range(self.ppo.epochs):
            for minibatch in self._order(number, "policy", epoch, minibatches):
                self.stage.run.raise_if_cancelled()
                seen.append(self._policy_step(minibatch))
                if number == self.ppo.critic_warmup_batches and len(seen) == 1:
                    _check_first_step(seen[0], minibatch)
        return figures | _means(seen)

    def _order(
        self, number: int, what: str, epoch: int, minibatches: list[Minibatch]
    ) -> list[Minibatch]:
        order = list(minibatches)
        _stream(self.plan.seed, what, number, epoch).shuffle(order)
        return order

    def _critic_step(self, minibatch: Minibatch) -> dict[str, float]:
        clip = self.ppo.value_clip_range
        values = [self.critic(part.states) for part in minibatch]
        losses = [
            ppo_math.value_loss(value, part.values, part.returns, part.mask, clip)
            for value, part in zip(values, minibatch, strict=True)
        ]
        shares = _token_shares(minibatch)
        loss = torch.stack([share * one for share, one in zip(shares, losses, strict=True)]).sum()
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._take_step(self.critic_optimizer, finite=bool(torch.isfinite(loss)))
        moved = [
            ppo_math.masked_mean(((value - part.values).abs() > clip).float(), part.mask)
            for value, part in zip(values, minibatch, strict=True)
        ]
        clipped = sum(share * float(one) for share, one in zip(shares, moved, strict=True))
        return {"loss/value": _number(loss), "value/clipfrac": clipped}

    def _policy_step(self, minibatch: Minibatch) -> dict[str, float]:
        """One optimizer step; each part counts by its share of the minibatch's tokens."""
        figures: dict[str, float] = {}
        finite = True
        self.optimizer.zero_grad(set_to_none=True)
        for part, share in zip(minibatch, _token_shares(minibatch), strict=True):
            loss, measured = self._policy_loss(part)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            finite = finite and bool(torch.isfinite(loss))
            for key, value in measured.items():
                figures[key] = figures.get(key, 0.0) + share * value
        self._take_step(self.optimizer, finite=finite)
        return figures

    def _policy_loss(self, part: Part) -> tuple[Tensor, dict[str, float]]:
        clip, mask = self.ppo.clip_range, part.mask
        with self.backbone.using(POLICY, trainable=True):
            logits = self.backbone.logits(part.batch)
        logprobs = ppo_math.gathered_logprobs(logits, part.batch.answers, self.ppo.temperature)
        loss = ppo_math.policy_loss(logprobs, part.logprobs, part.advantages, mask, clip)
        with torch.no_grad():
            ratio = (logprobs - part.logprobs).exp()
            entropy = ppo_math.entropy(logits, self.ppo.temperature)
            clipped = ppo_math.clip_fraction(logprobs, part.logprobs, mask, clip)
            approx_kl = ppo_math.kl_k3(part.logprobs, logprobs)
        return loss, {
            "loss/policy": _number(loss),
            "policy/entropy": _number(ppo_math.masked_mean(entropy, mask)),
            "policy/clipfrac": _number(clipped),
            "policy/approx_kl": _number(ppo_math.masked_mean(approx_kl, mask)),
            "policy/ratio": _number(ppo_math.masked_mean(ratio, mask)),
            "policy/ratio_error": _number(((ratio - 1).abs() * mask).max()),
        }

    def _take_step(self, optimizer: torch.optim.Optimizer, *, finite: bool) -> None:
        """Clip the gradient and step; a non-finite loss or gradient is skipped and counted."""
        trained = optimizer.param_groups[0]["params"]
        norm = nn.utils.clip_grad_norm_(trained, self.ppo.max_grad_norm)
        if finite and torch.isfinite(norm):
            optimizer.step()
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"stage ppo: {self.skipped_in_a_row} steps in a row had a loss or gradient that "
                "is not finite; lower ppo.learning_rate"
            )

    def _above_kl(self, metrics: dict[str, float]) -> bool:
        return metrics["objective/kl"] > self.ppo.max_kl

    def _metrics(
        self,
        minibatches: list[Minibatch],
        answers: Sequence[SampledAnswer],
        rewards: dict[str, Tensor],
        updates: dict[str, float],
        times: dict[str, float],
    ) -> dict[str, float]:
        kl = _kl_of(minibatches)
        tokens = sum(len(answer.token_ids) for answer in answers)
        explained = ppo_math.explained_variance(
            *(
                torch.cat([getattr(part, name).flatten() for part in _parts_of(minibatches)])
                for name in ("values", "returns", "mask")
            )
        )
        total = rewards.pop("total")
        return {
            "objective/kl": kl,
            "objective/score": float(rewards.pop("score").mean()),
            "objective/rlhf_reward": float(total.mean()) - self.ppo.kl_coefficient * kl,
            **{name: float(readings.mean()) for name, readings in rewards.items()},
            **updates,
            "value/explained_variance": float(explained),
            "length/mean": tokens / len(answers),
            "ended/share": sum(a.finish_reason == "stop" for a in answers) / len(answers),
            "skipped_steps": float(self.skipped),
            "time/rollout": times["rollout"] - times["started"],
            "time/score": times["score"] - times["rollout"],
            "time/update": times["update"] - times["score"],
            "tokens_per_s": tokens / (times["update"] - times["started"]),
        }

    def _figures(self, stopped_by_kl: bool) -> dict[str, Any]:
        kept = ("objective/kl", "objective/score", "objective/rlhf_reward", "length/mean")
        figures: dict[str, Any] = {
            "batches": len(self.history),
            "stopped_by_kl": stopped_by_kl,
            "skipped_steps": self.skipped,
        }
        for key in kept:
            figures[f"{key}_first"] = self.history[0][key]
            figures[f"{key}_last"] = self.history[-1][key]
        return figures

    def _save(self, path: Path, next_batch: int) -> None:
        save_checkpoint(
            path,
            [self.optimizer, self.critic_optimizer],
            {"next_batch": next_batch, "skipped": self.skipped, "history": self.history},
        )

    def _restore(self, path: Path) -> int:
        state = load_checkpoint(path, [self.optimizer, self.critic_optimizer])
        if state is None:
            return 0
        self.skipped, self.history = state["skipped"], state["history"]
        return int(state["next_batch"])


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]} if rows else {}


def _token_shares(minibatch: Minibatch) -> list[float]:
    """Each part's share of the minibatch's answer tokens."""
    counts = [float(part.mask.sum()) for part in minibatch]
    return [count / max(sum(counts), 1.0) for count in counts]


def _stream(*key: object) -> random.Random:
    """A random stream that depends on its key alone, so that a resumed run draws the same."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))  # noqa: S311 - not a secret


def _parts_of(minibatches: list[Minibatch]) -> list[Part]:
    return [part for minibatch in minibatches for part in minibatch]


def _whiten_together(minibatches: list[Minibatch]) -> None:
    """Whiten advantages over the valid tokens of the whole rollout, not of each minibatch."""
    parts = _parts_of(minibatches)
    flat = torch.cat([part.advantages.flatten() for part in parts])
    mask = torch.cat([part.mask.flatten() for part in parts])
    white = ppo_math.masked_whiten(flat, mask)
    start = 0
    for part in parts:
        count = part.advantages.numel()
        part.advantages = white[start : start + count].view_as(part.advantages)
        start += count


def _kl_of(minibatches: list[Minibatch]) -> float:
    """Mean over the rollout of each answer's KL to the SFT policy, in nats."""
    parts = _parts_of(minibatches)
    return float(torch.cat([(part.kl * part.mask).sum(dim=1) for part in parts]).mean())


def _check_first_step(step: dict[str, float], minibatch: Minibatch) -> None:
    """Before anything was learned, policy and SFT policy are one: ratio 1 and KL 0."""
    kl = _kl_of([minibatch])
    if step["policy/ratio_error"] > MAX_FIRST_RATIO_ERROR or abs(kl) > MAX_FIRST_KL:
        raise TrainingError(
            f"stage ppo: the first ratio is off by {step['policy/ratio_error']:.2g} (allowed "
            f"{MAX_FIRST_RATIO_ERROR}) and the first KL is {kl:.2g} (allowed {MAX_FIRST_KL}); "
            "rollout and training do not see the same policy"
        )


def _number(value: Tensor) -> float:
    return float(value.detach())
