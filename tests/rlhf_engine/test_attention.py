"""Attention of one query to its cache equals torch's kernel."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlhf_engine.attention import NAME, one_query_attention
from rlhf_engine.backbone import Backbone
from tests.tiny import tiny_base


def inputs(queries: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((2, 6, queries, 8), (2, 2, 11, 8), (2, 2, 11, 8))
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return query, key, value


MODULE: Any = SimpleNamespace(num_key_value_groups=3, is_causal=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", ["none", "bool", "float"])
def test_one_query_equals_torchs_kernel(dtype: torch.dtype, masked: str) -> None:
    query, key, value = inputs(1, dtype)
    seen = torch.ones(2, 1, 1, 11, dtype=torch.bool)
    seen[0, 0, 0, :4] = False
    mask = {
        "none": None,
        "bool": seen,
        "float": torch.zeros(2, 1, 1, 11, dtype=dtype).masked_fill(~seen, float("-inf")),
    }[masked]
    ours, _ = one_query_attention(MODULE, query, key, value, mask, scaling=0.3)
    theirs, _ = sdpa_attention_forward(MODULE, query, key, value, mask, scaling=0.3)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert ours.shape == theirs.shape
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_several_queries_go_to_torchs_kernel() -> None:
    query, key, value = inputs(3, torch.float32)
    mask = torch.ones(2, 1, 3, 11, dtype=torch.bool)
    ours, _ = one_query_attention(MODULE, query, key, value, mask)
    theirs, _ = sdpa_attention_forward(MODULE, query, key, value, mask)
    assert torch.equal(ours, theirs)


def test_the_backbone_attends_so_and_reads_the_same(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    backbone = Backbone.load(base)
    assert backbone.model.config._attn_implementation == NAME
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    assert plain.config._attn_implementation == "sdpa"
    ids = torch.tensor([[1, 40, 41, 42, 43]])
    with torch.inference_mode():
        ours = backbone.model(ids[:, :4], use_cache=True)
        after = backbone.model(ids[:, 4:], past_key_values=ours.past_key_values).logits
        torch.testing.assert_close(after[0, -1], plain(ids).logits[0, -1], atol=1e-4, rtol=1e-4)
