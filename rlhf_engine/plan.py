"""RunPlan: every size and setting of one training run, checked before the run starts."""

from __future__ import annotations

import math
import types
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rlhf_engine.errors import PlanError

StageName = Literal["snapshot", "sft", "reward_model", "ppo", "evaluation"]
STAGES: tuple[StageName, ...] = ("snapshot", "sft", "reward_model", "ppo", "evaluation")
Dtype = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """The shape of every adapter."""

    rank: int = 16
    alpha: int = 32
    top_layers: int | None = None
    """Adapt only this many of the last layers (the reward model: of those that it reads through);
    None adapts all. Fewer is faster: the backward pass ends at the lowest adapted layer."""


@dataclass(frozen=True, slots=True)
class SftPlan:
    """Supervised fine-tuning on the gold answers."""

    epochs: float = 3.0
    learning_rate: float = 3e-4
    batch_size: int = 4
    reuse: str | None = None
    """Folder of a finished SFT PolicyVersion trained on the same demonstrations: taken over
    instead of training again."""
    start_from: str | None = None
    """Folder of an earlier SFT PolicyVersion to go on from; None begins with the base policy."""
    seen: str | None = None
    """Folder of the snapshot that `start_from` learnt; the two are set together."""
    replay_share: float = 0.25
    """Share of the gold answers in `seen` that are learnt again beside the new ones."""
    watched_questions: int = 16
    """At most so many held-out gold answers are watched for an early stop; 0 watches none."""
    watched_percent: int = 5
    """Percent of the training questions kept back to be watched, where evaluation leaves no
    held-out gold answer."""
    watch_every_steps: int | None = None
    """Steps between two looks at the held-out loss; None looks after each epoch."""
    patience: int = 1
    """Looks without a lower held-out loss after which training stops."""

    def __post_init__(self) -> None:
        if (self.start_from is None) != (self.seen is None):
            raise PlanError(
                "sft.start_from and sft.seen are set together: the policy to go on from, and the "
                "snapshot it learnt"
            )


@dataclass(frozen=True, slots=True)
class RewardPlan:
    """The reward model, trained on comparisons."""

    epochs: float = 2.0
    learning_rate: float = 3e-4
    batch_size: int = 4
    margin_slightly: float = 0.0
    margin_unsaid: float = 0.25
    margin_much: float = 0.5
    min_comparisons: int = 8
    heads: int = 3
    """Score heads of the ensemble; each weighs the comparisons otherwise."""
    depth: float = 0.67
    """Share of the base policy's layers through which an answer goes before its score is read.
    Middle layers know more of what an answer says; the last ones are busy with the next word."""
    separate_adapters: bool = False
    """Whether each head has an adapter of its own, trained one after the other."""
    warm_start: str | None = None
    """Stage folder of the last cycle's reward model; training goes on from it where it fits."""
    label_noise: float = 0.1
    """Share of votes taken to be mistakes, as long as raters of the same pair do not show it."""
    rater_cap: float = 0.2
    """Largest share of the total weight that one rater's votes may have; twice an equal share
    where that is more."""
    thumb_cap: float = 0.2
    """Largest share of the total weight that pairs made of thumbs may have."""
    centre_coefficient: float = 0.01
    """How strongly the scores of a pair are drawn to a sum of 0."""
    both_bad_weight: float = 0.25
    """Weight of a comparison in which both answers were called bad."""
    watched_percent: int = 15
    """Percent of the training questions that are watched and not learnt from, where their votes
    are enough to choose by; the best reward model on the way is kept. 0 watches none."""
    patience: int = 3
    """Looks, two an epoch, without a better forecast after which training stops."""


@dataclass(frozen=True, slots=True)
class PpoPlan:
    """Proximal policy optimisation against the reward model and the reward signals."""

    algorithm: Literal["ppo", "rloo", "best_of_n"] = "ppo"
    """rloo has no critic: an answer's advantage is its reward over the mean of the other
    answers to the same prompt. best_of_n draws as many answers from the SFT policy and learns
    the best one to each prompt, by the settings of `sft`."""
    rollout_batches: int = 8
    rollout_size: int = 16
    """Answers in a rollout batch."""
    answers_per_prompt: int = 4
    """Answers drawn to each prompt of a batch; they share the prompt's computation."""
    epochs: int = 2
    minibatch_size: int = 16
    """Answers behind one optimizer step; answers to one prompt stay together."""
    learning_rate: float = 2e-4
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """linear ends near 0 in the last batch, as TRL's did; the critic's rate stays."""
    critic_learning_rate: float = 1e-4
    """Faster, and the critic learns the few prompts of a batch and less of the next ones'."""
    critic_epochs: int = 4
    critic_warmup_batches: int = 0
    """Rollout batches at the start from which the critic learns and the policy does not. The
    critic is fitted to the SFT policy's answers before, so few or none are needed."""
    temperature: float = 0.7
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    value_clip_range: float = 0.2
    early_stop_kl: float = 0.1
    """Mean KL a token (nats) between the policy and the one that drew the answers, above which
    no further step is taken on them."""
    kl_estimator: Literal["k1", "k3"] = "k1"
    kl_coefficient: float = 0.05
    """Penalty a nat of KL to the SFT policy, at the start and at least."""
    kl_target: float | None = 6.0
    """Mean KL an answer (nats) that the coefficient is steered to; None keeps it fixed."""
    kl_horizon: float = 64.0
    """Answers over which the coefficient follows."""
    max_kl: float = 8.0
    """Mean KL an answer (nats) at which tuning stops; the policy then goes back towards that of the
    batch before, as far as the limit."""
    spread_penalty: float = 0.5
    """An answer's score is the mean of the reward model's heads minus this many times their
    standard deviation."""
    novelty_penalty: float = 2.0
    """Taken off a score at novelty 2 and beyond, and a part of it from novelty 1 on, the edge of
    the answers that people voted on."""
    normalise_rewards: bool = True
    """Divide rewards by their running deviation."""
    reward_clip: float = 5.0
    missing_eos_penalty: float = 1.0
    max_grad_norm: float = 1.0


@dataclass(frozen=True, slots=True)
class SignalPlan:
    """A reward signal by name; its reading in [-1, 1] enters the reward times `weight`."""

    name: str
    weight: float = 0.5


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """Candidate against live policy on questions that no training saw."""

    max_questions: int = 40
    bootstrap_rounds: int = 1000
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class GatePlan:
    """What a candidate must show to be promoted."""

    min_win_rate_lower: float = 0.5
    """The lower end of the win-rate interval against the live policy must lie above this."""
    max_similarity_drop: float = 1.0
    """How many chrF points (0 to 100) the candidate's mean against the gold answers may lie
    below the live policy's."""
    max_length_ratio: float = 2.0
    """Mean answer length, candidate over live, above which the candidate is refused."""
    approval_required: bool = False


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One training run from snapshot to gate. Lengths are in tokens."""

    base: str
    """Folder of the base policy."""
    live: str | None = None
    """Folder of the PolicyVersion now in service; None is the base policy untouched."""
    stages: tuple[str, ...] = STAGES
    seed: int = 17
    dtype: Dtype = "auto"
    threads: int = 2
    max_prompt_tokens: int = 384
    max_answer_tokens: int = 64
    micro_batch_size: int = 2
    """Rows in one forward and backward pass of any stage; gradients add up to the stage's
    batch size. Fewer rows need less memory and, on a CPU, hardly more time."""
    lora: LoraPlan = field(default_factory=LoraPlan)
    sft: SftPlan = field(default_factory=SftPlan)
    reward_model: RewardPlan = field(default_factory=RewardPlan)
    ppo: PpoPlan = field(default_factory=PpoPlan)
    signals: tuple[SignalPlan, ...] = ()
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)
    gate: GatePlan = field(default_factory=GatePlan)

    def __post_init__(self) -> None:
        _check(self)
        unknown = [stage for stage in self.stages if stage not in STAGES]
        if unknown or list(self.stages) != [s for s in STAGES if s in self.stages]:
            raise PlanError(
                f"stages is {list(self.stages)}; it must be some of {list(STAGES)}, in that order"
            )
        sections: tuple[Any, ...] = (self.lora, self.sft, self.reward_model, self.ppo)
        for section in (*sections, self.evaluation, self.gate, *self.signals):
            _check(section)
        _check_rollouts(self.ppo)

    @property
    def has_ppo(self) -> bool:
        """Whether this run tunes the policy by PPO, or ends with the SFT policy."""
        return "ppo" in self.stages


# Least and largest allowed value of each number, by field name.
RANGES: dict[str, tuple[float, float]] = {
    "rank": (1, 256),
    "alpha": (1, 1024),
    "top_layers": (1, 1000),
    "epochs": (0, 1000),
    "learning_rate": (0, 1),
    "critic_learning_rate": (0, 1),
    "batch_size": (1, 4096),
    "replay_share": (0, 1),
    "watched_questions": (0, 10_000),
    "watched_percent": (0, 50),
    "watch_every_steps": (1, 1_000_000),
    "patience": (1, 1000),
    "margin_slightly": (0, 10),
    "margin_unsaid": (0, 10),
    "margin_much": (0, 10),
    "min_comparisons": (2, 1_000_000),
    "depth": (0.01, 1),
    "heads": (1, 16),
    "label_noise": (0, 0.45),
    "rater_cap": (0.01, 1),
    "thumb_cap": (0, 0.9),
    "centre_coefficient": (0, 1),
    "both_bad_weight": (0, 1),
    "rollout_batches": (1, 100_000),
    "rollout_size": (2, 100_000),
    "minibatch_size": (1, 100_000),
    "answers_per_prompt": (1, 1000),
    "early_stop_kl": (0.0001, 1000),
    "kl_target": (0.001, 10_000),
    "kl_horizon": (1, 1e9),
    "spread_penalty": (0, 100),
    "novelty_penalty": (0, 100),
    "critic_epochs": (0, 1000),
    "critic_warmup_batches": (0, 1000),
    "temperature": (0.05, 5),
    "gamma": (0, 1),
    "gae_lambda": (0, 1),
    "clip_range": (0.001, 1),
    "value_clip_range": (0.001, 100),
    "kl_coefficient": (0, 10),
    "max_kl": (0.001, 10_000),
    "reward_clip": (0.001, 1000),
    "missing_eos_penalty": (0, 100),
    "max_grad_norm": (0.0001, 1000),
    "weight": (0, 1),
    "max_questions": (2, 100_000),
    "bootstrap_rounds": (100, 100_000),
    "confidence": (0.5, 0.999),
    "min_win_rate_lower": (0, 1),
    "max_similarity_drop": (0, 100),
    "max_length_ratio": (1, 100),
    "seed": (0, 2**31 - 1),
    "threads": (1, 1024),
    "max_prompt_tokens": (32, 131_072),
    "max_answer_tokens": (4, 8192),
    "micro_batch_size": (1, 4096),
}


def _check(section: Any) -> None:
    """Each field against its type hint, and numbers against their range."""
    for name, hint in get_type_hints(type(section)).items():
        value = getattr(section, name)
        what = f"{type(section).__name__}.{name} is {value!r}"
        if not _fits(value, hint):
            raise PlanError(f"{what}; it must be {_in_words(hint)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        least, largest = RANGES[name]
        if not math.isfinite(value) or not least <= value <= largest:
            raise PlanError(f"{what}; it must lie between {least} and {largest}")


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(each, inner[0]) for each in value)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, hint)


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    types.NoneType: "null",
}


def _in_words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {list(inner)}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_in_words, inner))
    if origin is tuple:
        return f"a list of which each is {_in_words(inner[0])}"
    return _WORDS.get(hint, f"a {hint.__name__}")


def _check_rollouts(ppo: PpoPlan) -> None:
    each = ppo.answers_per_prompt
    for name in ("rollout_size", "minibatch_size"):
        if getattr(ppo, name) % each:
            raise PlanError(
                f"PpoPlan.{name} is {getattr(ppo, name)}; it must be a multiple of "
                f"answers_per_prompt, {each}"
            )
    if ppo.algorithm != "ppo" and each < 2:
        raise PlanError(f"PpoPlan.answers_per_prompt is 1; {ppo.algorithm} needs at least 2")
