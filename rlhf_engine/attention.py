"""Attention of one new token to its cache, as generation on a CPU needs it.

torch's fused kernel is made for many queries at once. For one query a row, plain products in
float32 are about twice as fast, so that a whole step of generation with 16 rows takes two thirds
of the time or less (tests/benchmarks/decode_step.py). All else stays torch's.

Told how many tokens each row sees (`row_lengths`), it reads each row's own and no more: that is
less work, and a row's bits then do not depend on how long its neighbours are.

Legend: b rows, a attention heads, c key-value heads, s cached tokens, d head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "heed_one_query"

# What some models ask of attention beyond the plain kind.
_SPECIAL = ("softcap", "s_aux", "position_bias", "cache", "output_attentions")


def one_query_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """query [b, a, 1, d], key and value [b, c, s, d], mask [b, 1, 1, s] -> [b, 1, a, d].

    With `row_lengths`, row i sees its first row_lengths[i] tokens and the mask is not read.

    Several queries a row, an accelerator, dropout and special kinds go to torch's kernel.
    """
    special = dropout > 0 or any(more.get(name) is not None for name in _SPECIAL)
    if query.shape[2] != 1 or query.device.type != "cpu" or special:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return output, None
    (b, a, _, d), c = query.shape, key.shape[1]
    # Query heads that share a key-value head are the rows of one product.
    packed = query.reshape(b, c, a // c, d).float() * (d**-0.5 if scaling is None else scaling)
    lengths = more.get("row_lengths")
    if lengths is None:
        output = _attended(packed, key, value, attention_mask)
    else:
        window = more.get("sliding_window")
        seen = [slice(max(0, end - window) if window else 0, end) for end in lengths]
        output = torch.stack(
            [_attended(packed[i], key[i, :, at], value[i, :, at]) for i, at in enumerate(seen)]
        )
    return output.reshape(b, a, 1, d).transpose(1, 2).to(query.dtype).contiguous(), None


def _attended(packed: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled queries [..., c, a / c, d] over keys and values [..., c, s, d]."""
    scores = packed @ key.float().transpose(-1, -2)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + mask
    return scores.softmax(dim=-1) @ value.float()


def use_one_query_attention(model: Any) -> None:
    """Let a causal LM attend so, where its kind can be told how to attend."""
    if not getattr(model, "_supports_attention_backend", False):
        return
    AttentionInterface.register(NAME, one_query_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
