"""Tokens are drawn as their probabilities say."""

from __future__ import annotations

import pytest
import torch

from rlhf_engine.errors import GenerationError
from rlhf_engine.records import SamplingSettings
from rlhf_engine.sampling import Draw, draw, inverted, nucleus

VOCABULARIES = [600, 1024]
TINY = [1e-6, 1e-38, 1e-45, 1e-50, 5e-324]


def some_logits(v: int, seed: int = 1) -> torch.Tensor:
    """Random logits [1, v]."""
    return torch.randn(1, v, generator=torch.Generator().manual_seed(seed)) * 4


def drawn(logits: torch.Tensor, settings: SamplingSettings, seed: int) -> Draw:
    return draw(logits, settings, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("v", VOCABULARIES)
@pytest.mark.parametrize("temperature", TINY)
def test_a_tiny_temperature_is_greedy(v: int, temperature: float) -> None:
    greedy = drawn(some_logits(v), SamplingSettings(temperature=0), 1)
    for seed in range(5):
        found = drawn(some_logits(v), SamplingSettings(temperature=temperature), seed)
        assert found == greedy


@pytest.mark.parametrize("v", VOCABULARIES)
@pytest.mark.parametrize("top_p", TINY)
def test_a_tiny_nucleus_is_the_likeliest_token(v: int, top_p: float) -> None:
    logits = some_logits(v)
    for seed in range(5):
        found = drawn(logits, SamplingSettings(temperature=1.0, top_p=top_p), seed)
        assert found.token_id == int(logits.argmax())


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.9, 0.999])
def test_a_nucleus_is_the_likeliest_tokens_up_to_its_share(top_p: float) -> None:
    probabilities = some_logits(1000).softmax(dim=-1)
    kept = nucleus(probabilities, top_p)
    ordered = probabilities[0].sort(descending=True).values
    sums = ordered.cumsum(dim=0)
    count = int((sums - ordered < top_p).sum())
    assert torch.equal(kept[0].sort(descending=True).values[:count], ordered[:count])
    assert int((kept > 0).sum()) == count
    assert sums[count - 1] >= top_p


@pytest.mark.parametrize("v", VOCABULARIES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "settings",
    [SamplingSettings(temperature=0), SamplingSettings(), SamplingSettings(top_p=0.5)],
)
def test_logits_that_are_not_finite_are_refused(
    v: int, value: float, settings: SamplingSettings
) -> None:
    whole = torch.full((1, v), value)
    one = some_logits(v).index_fill(1, torch.tensor([3]), value)
    for logits in (whole, one) if value != float("-inf") else (whole,):
        with pytest.raises(GenerationError, match="not finite"):
            drawn(logits, settings, 1)


def test_drawing_by_blocks_follows_the_distribution() -> None:
    """Against a plain running sum, over a vocabulary that no block divides."""
    generator = torch.Generator().manual_seed(5)
    probabilities = torch.rand(4, 1000, generator=generator) ** 8
    probabilities[:, 300:700] = 0
    probabilities[1, 900:] = 0
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    cumulative = probabilities.double().cumsum(dim=1)
    for at in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1 - 1e-12):
        uniform = torch.full((4, 1), at, dtype=torch.float64)
        plain = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        drawn = inverted(probabilities, uniform)
        assert torch.equal(drawn, plain.clamp(max=999))
        assert (probabilities.gather(1, drawn) > 0).all()
