"""PPO against a proxy, with and without the defences; what it does to proxy and gold.

The defences are the plan's own at their defaults: three heads whose spread is taken off,
the penalty on novelty, the KL penalty steered to a target, and the stop at the largest KL.

Legend: b answers, t answer tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from rlhf_engine import ppo_math
from rlhf_engine.plan import PpoPlan, RewardPlan
from rlhf_engine.ppo import Ppo
from rlhf_engine.processes import Processes
from rlhf_engine.rollout import POLICY, REFERENCE, Rollouts
from rlhf_engine.signals import Known
from tests.benchmarks.overoptimisation_world import COMPARISONS, Gold, Proxy, Votes
from tests.benchmarks.ppo_learns_tiny import PROMPTS, begin_ppo, fresh_answers, tiny_ppo_plan
from tests.tiny import tiny_base

HEAD_SCALE = 2.0
MEASURE_SEED = 3 * 10**6
HEADS = RewardPlan().heads

PPO = PpoPlan(
    rollout_batches=60,
    rollout_size=32,
    minibatch_size=16,
    learning_rate=2e-3,
    temperature=1.0,
    early_stop_kl=0.3,
    missing_eos_penalty=0.0,
)
FREE = {"kl_coefficient": 0.0, "kl_target": None, "max_kl": 10_000.0, "novelty_penalty": 0.0}


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to tune: how many heads judge, and changes to `PPO`."""

    name: str
    heads: int
    changes: dict[str, Any]

    @property
    def plan(self) -> PpoPlan:
        """The arm's settings."""
        return replace(PPO, **self.changes)


DEFENDED = "all defences"
ARMS = (
    Arm("no defence", 1, FREE),
    Arm("fixed KL penalty 0.05", 1, {**FREE, "kl_coefficient": 0.05}),
    Arm("fixed KL penalty 0.2", 1, {**FREE, "kl_coefficient": 0.2}),
    Arm("ensemble alone", HEADS, FREE),
    Arm("novelty alone", 1, {**FREE, "novelty_penalty": PPO.novelty_penalty}),
    Arm("KL target and stop alone", 1, {"novelty_penalty": 0.0}),
    Arm(DEFENDED, HEADS, {}),
)


@dataclass(frozen=True, slots=True)
class Point:
    """The policy after so many batches: KL to the SFT policy in nats an answer, mean proxy score
    and mean gold, over the same fresh answers; gold of every second one and of the others."""

    batch: int
    kl: float
    proxy: float
    halves: tuple[float, float]

    @property
    def gold(self) -> float:
        """Mean gold of all answers."""
        return fmean(self.halves)


@dataclass(frozen=True, slots=True)
class Curve:
    """One arm from one seed; the first point is the SFT policy."""

    arm: str
    seed: int
    points: list[Point]
    stopped: bool

    @property
    def peak(self) -> float:
        """The highest gold on the way. The highest of several measurements is one that erred
        upwards, so each half of the answers finds the place and the other half measures it."""
        return fmean(
            max(self.points, key=lambda point: point.halves[half]).halves[1 - half]
            for half in (0, 1)
        )

    @property
    def gain(self) -> float:
        """Gold at the peak over gold of the SFT policy."""
        return self.peak - self.points[0].gold

    @property
    def fall(self) -> float:
        """How far gold ends under its peak, as a share of the gain; gold has no zero point that
        its own size could be held against."""
        return (self.peak - self.points[-1].gold) / max(self.gain, 1e-9)


class WatchedPpo(Ppo):
    """PPO that measures its policy every few batches."""

    def watch(self, gold: Gold, every: int, each: int) -> None:
        """Measure now and every so many batches, on `each` answers a prompt."""
        self.gold, self.every, self.each = gold, every, each
        self.points = [self.measured(0)]

    def _batch(self, number: int) -> dict[str, float]:
        figures = super()._batch(number)
        last = number + 1 == self.ppo.rollout_batches or figures["objective/kl"] > self.ppo.max_kl
        if last or (number + 1) % self.every == 0:
            self.points.append(self.measured(number + 1))
        return figures

    @torch.no_grad()
    def measured(self, batch: int) -> Point:
        """KL, proxy and gold of the policy as it is now, always on the same seeds."""
        groups = fresh_answers(self.backbone, self.plan, self.each, MEASURE_SEED)
        logprobs = {}
        for name in (POLICY, REFERENCE):
            with self.backbone.using(name):
                logits = self.backbone.logits(groups)
            logprobs[name] = ppo_math.gathered_logprobs(
                logits, groups.answers, self.ppo.temperature
            )
        kl = ppo_math.kl_k1(logprobs[POLICY], logprobs[REFERENCE])
        gold = self.gold.rewards(groups)
        heads = self.rollouts.judge.judge(groups).scores
        return Point(
            batch,
            float(ppo_math.sequence_kl(kl, groups.answer_mask)),
            float(heads.mean()),
            (float(gold[::2].mean()), float(gold[1::2].mean())),
        )


@dataclass(frozen=True, slots=True)
class Extent:
    """Rollout batches, batches between two measurements, measured answers a prompt, votes that the
    proxy learns from, and the schedule of the learning rate: a constant one never comes to rest."""

    batches: int = PPO.rollout_batches
    every: int = 3
    answers: int = 64
    votes: int = COMPARISONS
    schedule: Literal["linear", "constant"] = "constant"


def tune(folder: Path, arm: Arm, seed: int, extent: Extent) -> Curve:
    """One arm from one seed. Policy, gold and votes depend on the seed alone."""
    ppo = replace(arm.plan, rollout_batches=extent.batches, learning_rate_schedule=extent.schedule)
    plan = tiny_ppo_plan(tiny_base(folder / "base", seed), ppo, seed)
    stage, backbone = begin_ppo(folder / "run", plan, HEAD_SCALE)
    gold = Gold.drawn(backbone, seed)
    votes = Votes.cast(backbone, plan, gold, extent.votes)
    proxy: Proxy = votes.proxy(backbone, arm.heads, seed)
    rollouts = Rollouts(plan, backbone, proxy, PROMPTS, Known(), [], Processes())
    tuner = WatchedPpo(stage, rollouts, votes.critic(proxy))
    tuner.watch(gold, extent.every, extent.answers)
    report = tuner.run()
    return Curve(arm.name, seed, tuner.points, bool(report.figures["stopped_by_kl"]))
