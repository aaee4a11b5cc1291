"""Drawing one token from one row's logits.

Each row is drawn alone, with operations whose shapes depend on nothing but the vocabulary: a
sum over several rows' probabilities may add up in another order, and give other last bits.

Legend: v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_engine.errors import GenerationError
from rlhf_engine.records import SamplingSettings

BLOCK = 256
"""Tokens whose probabilities are added up together when one is drawn."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A token; `logprob` is at the sampling temperature."""

    token_id: int
    logprob: float


def draw(logits: Tensor, settings: SamplingSettings, generator: torch.Generator) -> Draw:
    """Draw from logits [1, v]. Nothing of the base policy's own generation settings is used.

    GenerationError where the logits are not finite.
    """
    scaled = logits if settings.greedy else logits / settings.temperature
    normaliser = scaled.logsumexp(dim=-1, keepdim=True)
    if settings.greedy:
        token = scaled.argmax(dim=-1, keepdim=True)
    else:
        probabilities = (scaled - normaliser).exp_()
        if settings.top_p < 1:
            probabilities = nucleus(probabilities, settings.top_p)
        uniform = torch.rand((1, 1), generator=generator, dtype=torch.float64)
        token = inverted(probabilities, uniform.to(probabilities.device))
    logprob = float(scaled.gather(1, token) - normaliser)
    if not abs(logprob) < float("inf"):
        raise GenerationError("the policy's logits are not finite; its weights are damaged")
    return Draw(int(token), logprob)


def plain_logprobs(logits: Tensor, token_id: int, top: int) -> tuple[float, list[Draw]]:
    """A token's log-probability at temperature 1 by logits [1, v], and those of the `top`
    likeliest tokens."""
    normaliser = logits.logsumexp(dim=-1, keepdim=True)
    found = float(logits[0, token_id] - normaliser)
    if not top:
        return found, []
    values, ids = (logits - normaliser).topk(top, dim=-1)
    likely = [Draw(*pair) for pair in zip(ids[0].tolist(), values[0].tolist(), strict=True)]
    return found, likely


def inverted(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative distribution passes `uniform`: [b, v], [b, 1] -> [b, 1].

    First the block of tokens, then the token in it: a running sum over a whole vocabulary
    costs more than all else in drawing a token.
    """
    short = -probabilities.shape[1] % BLOCK
    padded = torch.nn.functional.pad(probabilities, (0, short))
    blocks = padded.view(len(padded), -1, BLOCK)
    ends = blocks.double().sum(dim=2).cumsum(dim=1)
    wanted = uniform * ends[:, -1:]
    block = torch.searchsorted(ends, wanted, right=True).clamp(max=ends.shape[1] - 1)
    before = torch.cat([torch.zeros_like(wanted), ends], dim=1).gather(1, block)
    inside = blocks[torch.arange(len(blocks), device=block.device), block.squeeze(1)]
    within = torch.searchsorted(inside.double().cumsum(dim=1), wanted - before, right=True)
    # Rounding may carry the search past the last token that can be drawn.
    last = BLOCK - 1 - (inside > 0).flip(1).int().argmax(dim=1, keepdim=True)
    # A row of NaN has no such token; `draw` refuses whatever is found for it.
    return (block * BLOCK + torch.minimum(within, last)).clamp(max=probabilities.shape[1] - 1)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep the likeliest tokens of each row, one at least, until they hold `top_p`; the rest
    becomes 0. [b, v]"""
    ordered, order = probabilities.sort(dim=-1, descending=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    outside[:, 0] = False  # in float32 a tiny `top_p` is 0
    return torch.zeros_like(probabilities).scatter(1, order, ordered.masked_fill(outside, 0.0))
