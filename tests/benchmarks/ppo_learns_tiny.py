"""A tiny policy and a reward that is known exactly: does PPO reach what can be reached?

The reward is the share of an answer's tokens that belong to a chosen tenth of the vocabulary.
Its largest value, 1, is reachable: the output head's rows are long enough that hidden states
exist from which nearly all probability falls on chosen tokens (`reachable` computes how much).
A random policy starts near 0.1 or below, so nothing but learning brings it there.

Legend: b answers, t answer tokens, h hidden width, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rlhf_engine.backbone import AnswerGroups, Backbone
from rlhf_engine.critic import Critic
from rlhf_engine.generation import generate
from rlhf_engine.plan import LoraPlan, PpoPlan, RunPlan
from rlhf_engine.ppo import Ppo
from rlhf_engine.processes import Processes
from rlhf_engine.records import SamplingSettings
from rlhf_engine.render import prompt_ids
from rlhf_engine.reward_model import Judgement
from rlhf_engine.rollout import POLICY, REFERENCE, Rollouts
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.signals import Known
from rlhf_engine.stage import Stage
from tests.rlhf_engine.runs import demonstrations
from tests.tiny import tiny_base

CHOSEN_SHARE = 0.1
HEAD_SCALE = 4.0
"""The output head's rows are made this many times as long: from those of tests/tiny.py no
hidden state gives chosen tokens more than about two thirds of the probability."""
FRESH_SEED = 10**6
PROMPTS = [item.prompt for item in demonstrations()]

PPO = PpoPlan(
    rollout_batches=25,
    rollout_size=32,
    answers_per_prompt=4,
    minibatch_size=16,
    learning_rate=3e-3,
    # No stage before has fitted the critic; it begins at 0.
    critic_learning_rate=1e-3,
    early_stop_kl=0.3,
    temperature=1.0,
    # What is asked is whether the reward is climbed; nothing holds the policy back.
    kl_coefficient=0.0,
    kl_target=None,
    max_kl=10_000,
    missing_eos_penalty=0.0,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Mean reward of fresh answers before and after tuning, and the largest one reachable."""

    seed: int
    start: float
    end: float
    reachable: float

    @property
    def share(self) -> float:
        """The reward after tuning over the reachable one."""
        return self.end / self.reachable


class ChosenTokens:
    """The judge: one head, the share of chosen tokens; its states are the reference's."""

    def __init__(self, backbone: Backbone, chosen: Tensor) -> None:
        self.backbone, self.chosen = backbone, chosen

    def judge(self, groups: AnswerGroups) -> Judgement:
        """One head's scores; no answer is novel."""
        with torch.no_grad(), self.backbone.using(REFERENCE):
            states = self.backbone.states(groups)[:, :-1]
        rewards = self.rewards(groups)
        return Judgement(rewards.unsqueeze(0), torch.zeros_like(rewards), states)

    def rewards(self, groups: AnswerGroups) -> Tensor:
        """Share of chosen tokens [b]; the end of turn is not chosen, so a bare end gets 0."""
        mask = groups.answer_mask
        return (self.chosen[groups.answers] * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def reachable(head: Tensor, chosen: Tensor) -> float:
    """The most probability that any hidden state of the norm's length gives to chosen tokens.

    head [v, h]. An answer's expected reward is at most this; greedy choice per token reaches
    it, since each token counts alike. Found by climbing from several starts.
    """
    width = head.shape[1]
    state = torch.randn(16, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    climb = torch.optim.Adam([state], lr=0.1)
    mass = torch.zeros(())
    for _ in range(200):
        # RMSNorm gives every hidden state the length sqrt(h).
        on_sphere = torch.nn.functional.normalize(state, dim=1) * width**0.5
        mass = torch.softmax(on_sphere @ head.T, dim=1)[:, chosen].sum(dim=1)
        climb.zero_grad()
        (-mass.sum()).backward()  # type: ignore[no-untyped-call]
        climb.step()
    return float(mass.detach().max())


def climb_known_reward(
    folder: Path, algorithm: str, seed: int, batches: int = PPO.rollout_batches
) -> Outcome:
    """Tune a fresh tiny policy by the algorithm; rewards are means over fresh answers."""
    ppo = replace(PPO, algorithm=algorithm, rollout_batches=batches)  # type: ignore[arg-type]
    plan = tiny_ppo_plan(tiny_base(folder / "base", seed), ppo, seed)
    stage, backbone = begin_ppo(folder / "run", plan, HEAD_SCALE)
    head = backbone.model.lm_head.weight
    chosen = torch.rand(len(head), generator=torch.Generator().manual_seed(seed)) < CHOSEN_SHARE
    chosen[backbone.eos_id] = False
    judge = ChosenTokens(backbone, chosen)
    width = backbone.width
    critic = Critic(torch.zeros(width), torch.ones(width), torch.zeros(width), torch.zeros(()))
    start = _fresh_reward(judge, plan)
    Ppo(stage, Rollouts(plan, backbone, judge, PROMPTS, Known(), [], Processes()), critic).run()
    return Outcome(seed, start, _fresh_reward(judge, plan), reachable(head.detach(), chosen))


def tiny_ppo_plan(base: Path, ppo: PpoPlan, seed: int) -> RunPlan:
    """A plan for PPO alone; answers of at most 12 tokens."""
    return RunPlan(
        base=str(base),
        stages=("snapshot", "sft", "reward_model", "ppo"),
        seed=seed,
        dtype="float32",
        max_prompt_tokens=64,
        max_answer_tokens=12,
        micro_batch_size=16,
        lora=LoraPlan(rank=8, alpha=16),
        ppo=ppo,
    )


def begin_ppo(folder: Path, plan: RunPlan, head_scale: float) -> tuple[Stage, Backbone]:
    """A run folder at the stage ppo, and the tiny policy with longer rows in its head and two
    equal adapters that change nothing yet."""
    stage = Stage("ppo", RunFolder.create(folder, plan), plan, "float32")
    stage.path.mkdir(parents=True)
    backbone = Backbone.load(Path(plan.base))
    backbone.model.lm_head.weight.mul_(head_scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        backbone.new_adapter(POLICY, plan.lora)
    start = stage.run.stage_path("sft") / "adapter"
    backbone.save_adapter(POLICY, start)
    backbone.add_adapter(REFERENCE, start)
    return stage, backbone


def fresh_answers(backbone: Backbone, plan: RunPlan, each: int, seed: int) -> AnswerGroups:
    """`each` answers of the policy to every prompt, from the seeds `seed` on."""
    drawn = generate(
        backbone,
        POLICY,
        PROMPTS,
        range(seed, seed + each * len(PROMPTS)),
        SamplingSettings(temperature=plan.ppo.temperature, max_new_tokens=plan.max_answer_tokens),
        max_prompt_tokens=plan.max_prompt_tokens,
    )
    prompts = [prompt_ids(backbone.tokenizer, each, plan.max_prompt_tokens) for each in PROMPTS]
    return backbone.group(prompts, [answer.token_ids for answer in drawn])


def _fresh_reward(judge: ChosenTokens, plan: RunPlan) -> float:
    """Mean reward of answers with seeds that tuning never uses."""
    return float(judge.rewards(fresh_answers(judge.backbone, plan, 8, FRESH_SEED)).mean())
