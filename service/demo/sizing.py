"""How large the demonstration's training is: the largest preset that fits the time.

The estimate counts forward passes. Speeds vary several times from machine to machine and
from hour to hour, so it is made from the speed measured at the start, and made again
for what is left once the first cycle has shown how far it was off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rlhf_engine.plan import RewardPlan

Step = Literal["cycle 1: SFT", "answer pairs", "cycle 2: reward model", "cycle 2: PPO", "tables"]

AFTER_CYCLE_1: tuple[Step, ...] = (
    "answer pairs",
    "cycle 2: reward model",
    "cycle 2: PPO",
    "tables",
)

GOLD_TOKENS = 23
"""Mean length of the gold answers."""

PASSAGE_TOKENS = 60
FRAME_TOKENS = 42
"""What stands in a prompt beside the passages: system line, question, titles."""

PADDING = 1.15
"""Rows of a batch are padded to the longest."""

LAYERS = 30
CAUTION = 1.25
"""Speed is measured at its best, and the server answers beside the training."""

MARGIN = 1.15
"""What is left takes this many times what the first cycle's pace promises: other work comes and
goes."""

START_S = 20.0
"""What a process needs before its first step: imports, weights."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """One preset. Lengths are in tokens; `top_layers` None adapts every layer."""

    name: str
    passages: int
    answer_tokens: int
    top_layers: int | None
    exam_questions: int
    sft_epochs: float
    sft_learning_rate: float
    """Fewer steps need larger ones."""
    pairs: int
    reward_epochs: float
    ppo_batches: int
    ppo_batch_size: int
    """Answers a batch, four to each of its prompts."""
    ppo_epochs: int

    @property
    def prompt_tokens(self) -> int:
        """Mean prompt length."""
        return FRAME_TOKENS + PASSAGE_TOKENS * self.passages

    @property
    def max_prompt_tokens(self) -> int:
        """Longest prompt: headings and questions vary."""
        return round(1.6 * self.prompt_tokens)


# From the largest to the smallest.
PRESETS = (
    Sizes("large", 2, 48, None, 40, 3.0, 3e-4, 200, 2.0, 16, 48, 2),
    Sizes("medium", 2, 48, None, 40, 2.0, 3e-4, 160, 2.0, 12, 48, 2),
    Sizes("small", 1, 48, None, 40, 2.0, 5e-4, 128, 2.0, 10, 32, 2),
    Sizes("smaller", 1, 40, None, 40, 1.0, 1e-3, 96, 1.5, 8, 32, 2),
    Sizes("smallest", 1, 40, 10, 40, 1.0, 1e-3, 64, 1.0, 6, 16, 2),
    Sizes("least", 1, 40, 10, 40, 1.0, 1e-3, 32, 1.0, 4, 16, 1),
)

ANSWERS_PER_PROMPT = 4
"""In PPO; a pair for the voter has two. Answers to one prompt share its computation."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What this machine does: forward tokens a second in the number format `dtype`."""

    dtype: str
    forward_tokens_per_s: float
    drawn_tokens_per_s: float
    """At 16 rows at once."""


def estimate(sizes: Sizes, speed: Speed, questions: int) -> dict[Step, float]:
    """Seconds each step will take, with `questions` gold answers to learn from."""
    forward = speed.forward_tokens_per_s / PADDING
    drawn = speed.drawn_tokens_per_s
    share = 1.0 if sizes.top_layers is None else sizes.top_layers / LAYERS
    # A training step in forward passes: the backward pass ends at the lowest adapted layer.
    step = 1.4 + 1.8 * share
    # The reward model reads through the first layers alone, of which the last are adapted.
    depth = RewardPlan().depth
    reward_step = 1.4 * depth + 1.8 * min(share, depth)
    answer = 0.6 * sizes.answer_tokens
    row = sizes.prompt_tokens + answer
    pair = sizes.prompt_tokens + 2 * answer
    # A share of the prompt, and the answer.
    shared = sizes.prompt_tokens / ANSWERS_PER_PROMPT
    exam = sizes.exam_questions * (
        (2 * sizes.prompt_tokens + GOLD_TOKENS) / forward + answer / drawn
    )
    learnt = questions * sizes.sft_epochs * (sizes.prompt_tokens + GOLD_TOKENS)
    rollouts = sizes.ppo_batches * sizes.ppo_batch_size
    per_rollout = (shared / forward + answer / drawn) + (
        (2 + depth + sizes.ppo_epochs * step) * (shared + answer) / forward
    )
    judged = 4 * sizes.exam_questions * row / forward
    return {
        "cycle 1: SFT": 2 * START_S + learnt * step / forward + 2 * exam,
        "answer pairs": START_S
        + sizes.pairs * (sizes.prompt_tokens / forward + 2 * answer / drawn),
        "cycle 2: reward model": 2 * START_S
        + sizes.pairs * pair * (sizes.reward_epochs * reward_step + depth) / forward,
        "cycle 2: PPO": 2 * START_S + rollouts * per_rollout + exam + judged,
        "tables": START_S + sizes.exam_questions * row / forward,
    }


def choose(
    speed: Speed,
    questions: int,
    seconds: float,
    steps: Sequence[Step] | None = None,
    slowness: float = CAUTION,
    like: Sizes | None = None,
) -> Sizes:
    """The largest preset whose `steps` (all by default) fit into `seconds`, else the smallest.

    `slowness` is how many times longer than estimated the steps so far took. With `like`,
    what earlier steps fixed (lengths, layers, exam, SFT) stays as it is there.
    """
    for preset in PRESETS:
        sizes = preset if like is None else _keeping(preset, like)
        costs = estimate(sizes, speed, questions)
        if sum(costs[step] for step in steps or costs) * slowness <= seconds:
            return sizes
    return PRESETS[-1] if like is None else _keeping(PRESETS[-1], like)


def _keeping(preset: Sizes, like: Sizes) -> Sizes:
    fixed = (
        "passages",
        "answer_tokens",
        "top_layers",
        "exam_questions",
        "sft_epochs",
        "sft_learning_rate",
    )
    return Sizes(**{**asdict(preset), **{name: getattr(like, name) for name in fixed}})


def plan_values(sizes: Sizes, dtype: str) -> dict[str, Any]:
    """The sizes as values of the engine's RunPlan."""
    return {
        "dtype": dtype,
        "max_prompt_tokens": sizes.max_prompt_tokens,
        "max_answer_tokens": sizes.answer_tokens,
        # Memory matters more here than the few percent that larger parts would save.
        "micro_batch_size": 1,
        "lora": {"top_layers": sizes.top_layers},
        "sft": {"epochs": sizes.sft_epochs, "learning_rate": sizes.sft_learning_rate},
        # As with SFT, a few dozen comparisons make few steps, and those must be larger.
        "reward_model": {"epochs": sizes.reward_epochs, "learning_rate": 5e-4},
        "ppo": {
            "rollout_batches": sizes.ppo_batches,
            "rollout_size": sizes.ppo_batch_size,
            "answers_per_prompt": ANSWERS_PER_PROMPT,
            # Few steps in all, so they must be larger than usual.
            "minibatch_size": 16,
            "learning_rate": 5e-4,
            "epochs": sizes.ppo_epochs,
        },
        "evaluation": {"max_questions": sizes.exam_questions},
    }


def described(sizes: Sizes, questions: int) -> list[tuple[str, str]]:
    """The sizes as rows of a table, in words."""
    layers = "all" if sizes.top_layers is None else f"the top {sizes.top_layers} of {LAYERS}"
    return [
        ("passages in a prompt", str(sizes.passages)),
        ("longest prompt", f"{sizes.max_prompt_tokens} tokens"),
        ("longest answer", f"{sizes.answer_tokens} tokens"),
        ("adapted layers", layers),
        ("SFT", f"{questions} questions, {sizes.sft_epochs:g} epochs"),
        ("answer pairs with simulated votes", str(sizes.pairs)),
        ("reward model", f"{sizes.reward_epochs:g} epochs"),
        (
            "PPO",
            f"{sizes.ppo_batches} batches of {sizes.ppo_batch_size} answers, "
            f"{sizes.ppo_epochs} epochs each",
        ),
        ("exam", f"up to {sizes.exam_questions} questions"),
    ]
