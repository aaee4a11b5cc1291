"""Fixed inputs for both sides of ppo_parity, and what each side makes of them.

Legend: b batch, t answer tokens, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rlhf_engine import ppo_math
from tests.benchmarks import ppo_parity_trl
from tests.benchmarks.ppo_parity_trl import EOS_ID, PAD_ID, Settings, TrlPpo

ROWS, WIDTH, VOCABULARY = 6, 9, 32


@dataclass(frozen=True)
class Case:
    """Fixed inputs: logits of the policy when it sampled and after a step, [b, t, v]; tokens,
    reference log-probabilities and values, [b, t]; scores [b]; the answers' lengths."""

    name: str
    old_logits: Tensor
    new_logits: Tensor
    tokens: Tensor
    reference: Tensor
    old_values: Tensor
    new_values: Tensor
    scores: Tensor
    mask: Tensor


def fixed_case(name: str, lengths: tuple[int, ...]) -> Case:
    """Random numbers from a fixed seed. An answer shorter than the width ends with EOS."""
    random = torch.Generator().manual_seed(17)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    tokens = torch.randint(EOS_ID + 1, VOCABULARY, (ROWS, WIDTH), generator=random)
    mask = torch.arange(WIDTH) < torch.tensor(lengths).unsqueeze(1)
    for row, length in enumerate(lengths):
        tokens[row, length:] = PAD_ID
        if length < WIDTH or row % 2:
            tokens[row, length - 1] = EOS_ID
    old = normal(ROWS, WIDTH, VOCABULARY)
    values = normal(ROWS, WIDTH)
    near = old + 0.2 * normal(ROWS, WIDTH, VOCABULARY)
    reference = (near / Settings.temperature).log_softmax(-1)
    return Case(
        name=name,
        old_logits=old,
        new_logits=old + 0.2 * normal(ROWS, WIDTH, VOCABULARY),
        tokens=tokens,
        reference=reference.gather(-1, tokens.unsqueeze(-1)).squeeze(-1),
        old_values=values,
        new_values=values + 0.3 * normal(ROWS, WIDTH),
        scores=normal(ROWS),
        mask=mask,
    )


FULL = fixed_case("fill the width", (WIDTH,) * ROWS)
RAGGED = fixed_case("1 to 9 tokens", (1, 2, 4, 7, 8, 9))


class Sides:
    """Both sides on one case. TRL's side is given its own earlier results; this project's side
    is given TRL's where a later quantity is compared, so that each row shows one difference."""

    def __init__(self, trl: TrlPpo, case: Case, settings: Settings | None = None) -> None:
        self.trl, self.case, self.settings = trl, case, settings or Settings()

    def logprobs(self, logits: Tensor) -> Tensor:
        """Ours, [b, t]."""
        return ppo_math.gathered_logprobs(logits, self.case.tokens, self.settings.temperature)

    @cached_property
    def trl_logprobs(self) -> Tensor:
        """TRL's, of the sampling policy, [b, t]."""
        scaled = self.case.old_logits / (self.settings.temperature + 1e-7)
        found: Tensor = self.trl.names["selective_log_softmax"](scaled, self.case.tokens)
        return found

    @cached_property
    def rolled(self) -> dict[str, Any]:
        """TRL's variables up to the whitened advantages."""
        case = self.case
        return ppo_parity_trl.rollout(
            self.trl,
            self.settings,
            responses=case.tokens,
            logprobs=self.trl_logprobs,
            ref_logprobs=case.reference,
            values=case.old_values,
            scores=case.scores,
        )

    @cached_property
    def losses(self) -> dict[str, Any]:
        """TRL's variables up to the losses."""
        case = self.case
        return ppo_parity_trl.losses(
            self.trl, self.settings, self.rolled, case.new_logits, case.new_values
        )

    @cached_property
    def rewards(self) -> Tensor:
        """Our token rewards, [b, t]."""
        kl = ppo_math.kl_k1(self.logprobs(self.case.old_logits), self.case.reference)
        return ppo_math.token_rewards(self.case.scores, kl, self.case.mask, self.settings.kl_coef)

    def gae(self, rewards: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Our advantages and returns, [b, t]."""
        gamma, lam = self.settings.gamma, self.settings.lam
        return ppo_math.advantages(rewards, self.case.old_values, mask, gamma, lam)
