"""How many rows a step must compute so that each row's bits do not depend on the others.

Matrix libraries choose how to add up by the number of rows, so the same row may come out
with other last bits in a batch of another size. Which sizes agree is found by trying.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlhf_engine.backbone import Backbone

LARGEST = 16
SEED = 20


def exact_sizes(backbone: Backbone, at_least: int) -> list[int]:
    """Batch sizes, ascending, the last one `at_least` or more, at which every linear layer of
    this backbone gives the same bits for a row as in a batch of that last size."""
    largest = max(LARGEST, at_least)
    sizes = set(range(1, largest + 1))
    for kind, weight in _one_of_each_kind(backbone).items():
        key = (torch.get_num_threads(), largest, kind)
        if key not in backbone.known_sizes:
            backbone.known_sizes[key] = _tried(weight, largest)
        sizes &= backbone.known_sizes[key]
    return sorted(sizes)


@torch.inference_mode()
def _tried(weight: Tensor, largest: int) -> frozenset[int]:
    """Sizes that add up as the largest does, for weights of this shape and format.

    Each sum holds every product once with either sign, scattered: it would be 0 if nothing were
    rounded, so what comes out is the rounding of the very order of adding up. With a policy's
    own weights a bfloat16 result hides nearly every difference of order, until one in some
    thousand tokens shows it.
    """
    (outer, inner), drawn = weight.shape, torch.Generator().manual_seed(SEED)
    places = torch.randperm(inner // 2 * 2, generator=drawn)
    weights, rows = torch.zeros(outer, inner), torch.zeros(largest, inner)
    half = _uneven(outer, inner // 2, drawn)
    weights[:, places] = torch.cat([half, -half], dim=1)
    rows[:, places] = _uneven(largest, inner // 2, drawn).repeat(1, 2)
    weights, rows = (each.to(weight.device, weight.dtype) for each in (weights, rows))
    whole = nn.functional.linear(rows, weights)
    return frozenset(
        size
        for size in range(1, largest + 1)
        if torch.equal(nn.functional.linear(rows[:size], weights), whole[:size])
    )


def _uneven(rows: int, columns: int, drawn: torch.Generator) -> Tensor:
    """Numbers of widely different sizes."""
    sizes = torch.randn(rows, columns, generator=drawn).mul_(2).exp_()
    return torch.randn(rows, columns, generator=drawn).mul_(sizes)


def _one_of_each_kind(backbone: Backbone) -> dict[tuple[object, ...], Tensor]:
    """A weight of each shape and format that rows are multiplied with."""
    return {
        (*module.weight.shape, module.weight.dtype): module.weight
        for module in backbone.model.modules()
        if isinstance(module, nn.Linear)
    }
