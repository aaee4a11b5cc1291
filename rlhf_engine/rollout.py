"""Rollouts: the policy answers, the answers are judged, and each token gets its advantage.

One rollout batch is drawn by `Rollouts.draw`: prompts, g answers to each, scores of the reward
model's heads, readings of the reward signals, the KL to the SFT policy, values, advantages.
It comes laid out in the minibatches that the update steps through: the same rows at the same
padding give the same log-probabilities to the last bit, so the first ratio is exactly 1.

Legend: b answers, g answers a prompt, t answer tokens.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rlhf_engine import ppo_math
from rlhf_engine.backbone import AnswerGroups, Backbone
from rlhf_engine.critic import Critic
from rlhf_engine.errors import TrainingError
from rlhf_engine.generation import generate
from rlhf_engine.plan import PpoPlan, RunPlan
from rlhf_engine.ppo_control import RewardScale
from rlhf_engine.processes import Processes
from rlhf_engine.records import Prompt, SampledAnswer, SamplingSettings
from rlhf_engine.render import prompt_ids
from rlhf_engine.reward_model import Judgement
from rlhf_engine.signals import Known, RewardSignal, read_all

POLICY, REFERENCE = "policy", "reference"


class Judge(Protocol):
    """What scores answers: a RewardModel, or anything that reads them alike."""

    def judge(self, groups: AnswerGroups) -> Judgement:
        """Scores, novelty, and the hidden states that the critic reads."""


@dataclass
class Part:
    """Answers that go through the backbone together, with all that the update needs.

    `places` are their places in the rollout batch. The tensors are [b, t].
    """

    places: list[int]
    groups: AnswerGroups
    judged: Judgement
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    @property
    def mask(self) -> Tensor:
        """1 on answer tokens."""
        return self.groups.answer_mask


Minibatch = list[Part]
"""The parts whose gradients add up to one optimizer step."""


@dataclass
class Rollout:
    """One rollout batch, as far as this process drew it.

    `answers` by place in the batch; `readings` by name and place: score, spread, novelty,
    reward, and for each signal reward/<signal> and abstained/<signal>. Times in seconds.
    """

    answers: dict[int, SampledAnswer]
    minibatches: list[Minibatch]
    readings: dict[str, dict[int, float]]
    drawing_s: float
    scoring_s: float

    @property
    def parts(self) -> list[Part]:
        """The parts of all minibatches."""
        return [part for minibatch in self.minibatches for part in minibatch]


class Rollouts:
    """Draws rollout batches. All random streams depend on the seed and the batch's number
    alone, so a resumed run draws what an uninterrupted one would."""

    def __init__(
        self,
        plan: RunPlan,
        backbone: Backbone,
        judge: Judge,
        prompts: Sequence[Prompt],
        known: Known,
        signals: Sequence[RewardSignal],
        processes: Processes,
    ) -> None:
        self.plan, self.backbone, self.judge = plan, backbone, judge
        self.prompts, self.known, self.signals = prompts, known, signals
        self.processes = processes

    @property
    def ppo(self) -> PpoPlan:
        """The plan's part on PPO."""
        return self.plan.ppo

    def draw(
        self,
        number: int,
        critic: Critic,
        kl_coefficient: float,
        scale: RewardScale,
        on_passes: Callable[[int], None],
    ) -> Rollout:
        """Rollout batch `number`; its rewards update `scale`. `on_passes` hears how many of this
        process's answers are drawn and, added to that, how many are judged."""
        started = time.monotonic()
        prompts = self._prompts_of(number)
        plan = [self.processes.share(minibatch) for minibatch in self._partition(number)]
        chosen = sorted(at for each in plan for at in each)
        answers = self._answer(number, prompts, chosen, on_passes)
        drawn = time.monotonic()
        minibatches: list[Minibatch] = [[] for _ in plan]
        passes = len(answers)
        for minibatch, each in zip(minibatches, plan, strict=True):
            for part in self._at_once(each):
                minibatch.append(self._judged(part, prompts, answers, critic))
                passes += len(minibatch[-1].places)
                on_passes(passes)
        readings = self._readings(prompts, answers)
        rollout = Rollout(answers, minibatches, readings, drawn - started, 0.0)
        self._reward(rollout, scale)
        self._estimate_advantages(rollout, kl_coefficient)
        rollout.scoring_s = time.monotonic() - drawn
        return rollout

    def _prompts_of(self, number: int) -> list[Prompt]:
        """The batch's prompts: walks through shuffled passes over the prompt set, and repeats
        prompts where the set is smaller than a batch."""
        count, size = len(self.prompts), self.ppo.rollout_size // self.ppo.answers_per_prompt
        first, end = number * size, (number + 1) * size
        passes: list[int] = []
        for walk in range(first // count, (end - 1) // count + 1):
            order = list(range(count))
            stream(self.plan.seed, "prompts", walk).shuffle(order)
            passes += order
        start = first % count
        return [self.prompts[at] for at in passes[start : start + size]]

    def _partition(self, number: int) -> list[list[int]]:
        """The batch's prompts, by number, in each minibatch; drawn anew for each batch."""
        order = list(range(self.ppo.rollout_size // self.ppo.answers_per_prompt))
        stream(self.plan.seed, "partition", number).shuffle(order)
        size = self.ppo.minibatch_size // self.ppo.answers_per_prompt
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _places(self, chosen: Sequence[int]) -> list[int]:
        """The places of the answers to these prompts of the batch."""
        g = self.ppo.answers_per_prompt
        return [at * g + copy for at in chosen for copy in range(g)]

    def _answer(
        self,
        number: int,
        prompts: Sequence[Prompt],
        chosen: list[int],
        on_answers: Callable[[int], None],
    ) -> dict[int, SampledAnswer]:
        """This process's answers, by place. A seed belongs to a place, whoever draws it."""
        if not chosen:
            return {}
        places = self._places(chosen)
        drawn = generate(
            self.backbone,
            POLICY,
            [prompts[at] for at in chosen],
            [stream(self.plan.seed, "answer", number, at).getrandbits(31) for at in places],
            SamplingSettings(
                temperature=self.ppo.temperature, max_new_tokens=self.plan.max_answer_tokens
            ),
            max_prompt_tokens=self.plan.max_prompt_tokens,
            on_answers=on_answers,
        )
        return dict(zip(places, drawn, strict=True))

    def _at_once(self, chosen: list[int]) -> list[list[int]]:
        """A minibatch's prompts in parts small enough for memory, one prompt at least."""
        size = max(1, self.plan.micro_batch_size // self.ppo.answers_per_prompt)
        return [chosen[start : start + size] for start in range(0, len(chosen), size)]

    @torch.no_grad()
    def _judged(
        self,
        chosen: list[int],
        prompts: Sequence[Prompt],
        answers: dict[int, SampledAnswer],
        critic: Critic,
    ) -> Part:
        """Log-probabilities, scores and values of the answers to these prompts."""
        tokenizer, places = self.backbone.tokenizer, self._places(chosen)
        groups = self.backbone.group(
            [prompt_ids(tokenizer, prompts[at], self.plan.max_prompt_tokens) for at in chosen],
            [answers[at].token_ids for at in places],
        )
        # The reward model has only seen answers that ended, and says anything of others.
        judged = self.judge.judge(groups.ended(self.backbone.eos_id))
        values = critic(judged.states)
        return Part(
            places=places,
            groups=groups,
            # A judge may compute in inference mode, whose tensors no gradient can use.
            judged=Judgement(*(each.clone() for each in judged)),
            logprobs=self._logprobs(POLICY, groups),
            reference=self._logprobs(REFERENCE, groups),
            values=values,
            advantages=torch.zeros_like(values),
            returns=torch.zeros_like(values),
        )

    def _logprobs(self, adapter: str, groups: AnswerGroups) -> Tensor:
        with self.backbone.using(adapter):
            logits = self.backbone.logits(groups)
        return ppo_math.gathered_logprobs(logits, groups.answers, self.ppo.temperature)

    def _readings(
        self, prompts: Sequence[Prompt], answers: dict[int, SampledAnswer]
    ) -> dict[str, dict[int, float]]:
        """Each signal's readings by place, named reward/<signal>; an abstention reads as 0, and
        as 1 under abstained/<signal>."""
        g = self.ppo.answers_per_prompt
        asked = [prompts[place // g] for place in answers]
        inputs = [
            self.known.about(prompt, answer.text)
            for prompt, answer in zip(asked, answers.values(), strict=True)
        ]
        found: dict[str, dict[int, float]] = {}
        for signal in self.signals:
            by_place = list(zip(answers, read_all(signal, inputs), strict=True))
            found[f"reward/{signal.name}"] = {place: value or 0.0 for place, value in by_place}
            found[f"abstained/{signal.name}"] = {
                place: float(value is None) for place, value in by_place
            }
        return found

    def _reward(self, rollout: Rollout, scale: RewardScale) -> None:
        """Each answer's reward: the score of the heads, plus the weighted readings, minus the
        penalty of an answer that did not end; divided by the running deviation, then clipped."""
        for name in ("score", "spread", "novelty", "reward"):
            rollout.readings[name] = {}
        for part in rollout.parts:
            total = self._total(part, rollout)
            for place, value in zip(part.places, total.tolist(), strict=True):
                rollout.readings["reward"][place] = value
        rewards = torch.tensor(list(rollout.readings["reward"].values()), dtype=torch.float64)
        count, mean, variance = self.processes.moments(rewards)
        if not math.isfinite(mean + variance):
            raise TrainingError(
                "stage ppo: a reward is not finite; the reward model is damaged, train it again"
            )
        scale.update(count, mean, variance)
        divisor = scale.deviation if self.ppo.normalise_rewards else 1.0
        clip = self.ppo.reward_clip
        for place, value in rollout.readings["reward"].items():
            rollout.readings["reward"][place] = min(max(value / divisor, -clip), clip)

    def _total(self, part: Part, rollout: Rollout) -> Tensor:
        """The part's rewards [b] before they are scaled; keeps what the judge says."""
        scores, novelty = part.judged.scores, part.judged.novelty
        for name, values in (
            ("score", scores.mean(0)),
            ("spread", ppo_math.head_spread(scores)),
            ("novelty", novelty),
        ):
            rollout.readings[name].update(zip(part.places, values.tolist(), strict=True))
        total = ppo_math.conservative_score(
            scores, novelty, self.ppo.spread_penalty, self.ppo.novelty_penalty
        )
        for signal in self.signals:
            read = rollout.readings[f"reward/{signal.name}"]
            total = total + signal.weight * total.new_tensor([read[at] for at in part.places])
        unended = [rollout.answers[at].finish_reason != "stop" for at in part.places]
        return total - self.ppo.missing_eos_penalty * total.new_tensor(unended)

    def _estimate_advantages(self, rollout: Rollout, kl_coefficient: float) -> None:
        """GAE with the critic, or leave-one-out without; whitened over the whole batch."""
        estimator = ppo_math.KL_ESTIMATORS[self.ppo.kl_estimator]
        for part in rollout.parts:
            read = rollout.readings["reward"]
            rewards = part.values.new_tensor([read[place] for place in part.places])
            kl = estimator(part.logprobs, part.reference)
            by_token = ppo_math.token_rewards(rewards, kl, part.mask, kl_coefficient)
            if self.ppo.algorithm == "rloo":
                above = ppo_math.leave_one_out(by_token.sum(dim=1), self.ppo.answers_per_prompt)
                part.advantages = above.unsqueeze(1) * part.mask
            else:
                part.advantages, part.returns = ppo_math.advantages(
                    by_token, part.values, part.mask, self.ppo.gamma, self.ppo.gae_lambda
                )
        kept = [part.advantages[part.mask.bool()] for part in rollout.parts]
        _, mean, variance = self.processes.moments(torch.cat(kept) if kept else torch.zeros(0))
        for part in rollout.parts:
            part.advantages = ppo_math.whiten(part.advantages, mean, variance) * part.mask


def stream(*key: object) -> random.Random:
    """A random stream that depends on its key alone, so that a resumed run draws the same."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))  # noqa: S311 - not a secret
