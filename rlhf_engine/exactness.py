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
    drawn = torch.Generator().manual_seed(SEED)
    rows = torch.randn(largest, weight.shape[1], generator=drawn).to(weight.device, weight.dtype)
    whole = nn.functional.linear(rows, weight)
    return frozenset(
        size
        for size in range(1, largest + 1)
        if torch.equal(nn.functional.linear(rows[:size], weight), whole[:size])
    )


def _one_of_each_kind(backbone: Backbone) -> dict[tuple[object, ...], Tensor]:
    """A weight of each shape and format that rows are multiplied with."""
    return {
        (*module.weight.shape, module.weight.dtype): module.weight
        for module in backbone.model.modules()
        if isinstance(module, nn.Linear)
    }
