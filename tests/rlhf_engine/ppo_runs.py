"""PPO alone, without the stages before it: a tiny policy, and a judge that scores by a rule."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rlhf_engine.backbone import AnswerGroups, Backbone
from rlhf_engine.critic import Critic
from rlhf_engine.plan import PpoPlan, SignalPlan
from rlhf_engine.ppo import Ppo
from rlhf_engine.processes import Processes
from rlhf_engine.records import Prompt
from rlhf_engine.reward_model import Judgement
from rlhf_engine.rollout import POLICY, REFERENCE, Rollout, Rollouts
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.signals import Known, RewardSignal
from rlhf_engine.snapshot import normalised
from rlhf_engine.stage import Stage
from tests.rlhf_engine.runs import demonstrations, tiny_plan

SMALL = PpoPlan(
    rollout_batches=3,
    rollout_size=4,
    answers_per_prompt=2,
    minibatch_size=2,
    epochs=2,
    learning_rate=1e-2,
    temperature=1.0,
)
PROMPTS = [item.prompt for item in demonstrations() if item.prompt.split == "train"]

Rule = Callable[[list[int]], float]


def mean_token(tokens: list[int]) -> float:
    """A score that depends on which tokens an answer holds, about 0 to 1."""
    return sum(tokens) / (600 * len(tokens))


@dataclass
class Ruled:
    """A judge of k heads alike, that scores an answer's token ids by a rule. Its states [b, t, 2]
    tell the place and the token before it."""

    rule: Rule
    k: int = 1

    def judge(self, groups: AnswerGroups) -> Judgement:
        rows = zip(groups.answers.tolist(), groups.lengths.tolist(), strict=True)
        scores = torch.tensor([self.rule(tokens[:length]) for tokens, length in rows])
        before = torch.nn.functional.pad(groups.answers, (1, -1)) / 600
        place = torch.arange(before.shape[1]).expand_as(before) / 10
        states = torch.stack([place, before], dim=-1)
        return Judgement(scores.expand(self.k, -1), torch.zeros_like(scores), states)


def flat_critic(value: float = 0.0) -> Critic:
    """A critic that begins with the same value everywhere."""
    return Critic(torch.zeros(2), torch.ones(2), torch.zeros(2), torch.tensor(value))


def bare_ppo(
    folder: Path,
    base: Path,
    rule: Rule = mean_token,
    *,
    critic: Critic | None = None,
    signals: Sequence[RewardSignal] = (),
    prompts: Sequence[Prompt] = PROMPTS,
    max_answer_tokens: int = 6,
    thumbs: dict[tuple[str, str], tuple[int, ...]] | None = None,
    **changes: Any,
) -> Ppo:
    """The PPO stage of the run in `folder`, begun or to be gone on with; `changes` to SMALL."""
    plan = tiny_plan(
        base,
        max_answer_tokens=max_answer_tokens,
        ppo=replace(SMALL, **changes),
        signals=tuple(SignalPlan(signal.name, signal.weight) for signal in signals),
    )
    run = RunFolder(folder) if folder.exists() else RunFolder.create(folder, plan)
    stage = Stage("ppo", run, plan, "float32")
    stage.path.mkdir(parents=True, exist_ok=True)
    backbone = Backbone.load(base)
    torch.manual_seed(0)
    for name in (POLICY, REFERENCE):
        backbone.new_adapter(name, plan.lora)
    golds = {normalised(item.prompt.question): item.answer for item in demonstrations()}
    judge = Ruled(rule)
    rollouts = Rollouts(
        plan, backbone, judge, prompts, Known(golds, thumbs or {}), signals, Processes()
    )
    return Ppo(stage, rollouts, critic or flat_critic())


def rollouts_of(ppo: Ppo) -> list[Rollout]:
    """The list that each rollout batch will be put into as it is drawn."""
    seen: list[Rollout] = []
    draw = ppo.rollouts.draw

    def recorded(*arguments: Any) -> Rollout:
        seen.append(draw(*arguments))
        return seen[-1]

    ppo.rollouts.draw = recorded  # type: ignore[method-assign]
    return seen


def policy_bytes(ppo: Ppo) -> str:
    """A hash of the policy's adapter as it is in memory."""
    found = hashlib.sha256()
    for parameter in ppo.parameters:
        found.update(parameter.detach().numpy().tobytes())
    return found.hexdigest()


def batches(ppo: Ppo) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl about rollout batches, without times."""
    return [
        {key: value for key, value in row.items() if "time" not in key and key != "tokens_per_s"}
        for row in ppo.stage.run.metrics()
        if "batch" in row
    ]


def decided_base(tiny: Path, folder: Path, token: int, logit: float = 30.0) -> Path:
    """A copy of the tiny base whose next token is always `token`, or never with a negative logit.

    Every token has the same embedding and no layer adds to it, so the last state is the same
    everywhere, and the output head can point at it.
    """
    shutil.copytree(tiny, folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    for name, value in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            value.zero_()
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    embedding.fill_(1.0)
    head.mul_(0.1)
    head[token] = logit / head.shape[1]  # the normalised state is 1 in every place
    save_file(weights, path, metadata={"format": "pt"})
    return folder
