"""The key-value cache of rows that come and go: one slot a row, tokens from the slot's start on.

A row that joins is copied into the next slot; where one leaves, the last moves into its
place, so that rows in use are always the first. Nothing of a row depends on the others: not
where its tokens lie, nor how far attention reads (attention.py).

Legend: m rows of a step, c key-value heads, s slot width in tokens, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from rlhf_engine.errors import BasePolicyError

WIDTH_STEP = 64
"""Slots grow by this many tokens."""


@dataclass(slots=True)
class _Step:
    """Where the next token of each row goes, [m], and how many tokens attention may see."""

    rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    places: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    width: int = 0


class SlotCache(Cache):  # type: ignore[misc]
    """The cache of the rows that joined; slot i holds `lengths[i]` tokens."""

    layers: list[_SlotLayer]

    def __init__(self, dtype: torch.dtype) -> None:
        """`dtype` is what keys and values are kept in."""
        self._step = _Step()
        self._dtype = dtype
        self.lengths: list[int] = []
        super().__init__(layers=[])

    def join(self, prompt: DynamicCache, copies: int) -> None:
        """Take over a prompt's cache (of one row) into `copies` new slots."""
        if not self.layers:
            self.layers = [_SlotLayer(self._step, self._dtype) for _ in prompt.layers]
        first, length = len(self.lengths), prompt.get_seq_length()
        for own, layer in zip(self.layers, prompt.layers, strict=True):
            own.take(layer, first, copies)
        self.lengths += [length] * copies

    def drop(self, slot: int) -> None:
        """Free a slot; the last one moves there."""
        last = len(self.lengths) - 1
        length = self.lengths.pop()
        if slot != last:
            self.lengths[slot] = length
            for layer in self.layers:
                layer.move(last, slot, length)

    def begin_step(self, rows: int) -> list[int]:
        """Make room for one more token in each of the first `rows` slots; those not in use are
        written over at their start. Returns how many tokens each row sees with it, [rows]."""
        idle = rows - len(self.lengths)
        places = self.lengths + [0] * idle
        width = max(places) + 1
        for layer in self.layers:
            layer.reserve(rows, width)
        device = self.layers[0].keys.device
        self._step.rows = torch.arange(rows, device=device)
        self._step.places = torch.tensor(places, device=device)
        self._step.width = width
        self.lengths = [length + 1 for length in self.lengths]
        return [place + 1 for place in places]


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, [slots, c, s, d]."""

    keys: Tensor
    values: Tensor

    def __init__(self, step: _Step, dtype: torch.dtype) -> None:
        super().__init__()
        self._step, self._dtype = step, dtype

    def take(self, prompt: Any, first: int, copies: int) -> None:
        """Copy a prompt's keys and values into the slots from `first` on."""
        if type(prompt) is not DynamicLayer:
            raise BasePolicyError(
                f"this base policy keeps its past in a {type(prompt).__name__}, not in keys and "
                "values of every token; choose one whose layers all attend"
            )
        if not self.is_initialized:
            self.lazy_initialization(prompt.keys, prompt.values)
        length = prompt.keys.shape[2]
        self.reserve(first + copies, length + 1)
        slots = slice(first, first + copies)
        self.keys[slots, :, :length] = prompt.keys.to(self._dtype)
        self.values[slots, :, :length] = prompt.values.to(self._dtype)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy one slot's tokens into another."""
        for tensor in (self.keys, self.values):
            tensor[target, :, :length] = tensor[source, :, :length]

    def reserve(self, slots: int, width: int) -> None:
        """Have at least so many slots of so many tokens."""
        have = self.keys.shape
        if slots <= have[0] and width <= have[2]:
            return
        slots = max(slots, have[0])
        width = max(-(-width // WIDTH_STEP) * WIDTH_STEP, have[2])
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(slots, have[1], width, old.shape[3])
            new[: have[0], :, : have[2]] = old
            setattr(self, name, new)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Empty tensors of the right kind."""
        for name, like in (("keys", key_states), ("values", value_states)):
            shape = (0, like.shape[1], 0, like.shape[3])
            setattr(self, name, torch.zeros(shape, dtype=self._dtype, device=like.device))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one token a row, [m, c, 1, d]; all that the rows may see, [m, c, s, d]."""
        step = self._step
        self.keys[step.rows, :, step.places] = key_states[:, :, 0].to(self._dtype)
        self.values[step.rows, :, step.places] = value_states[:, :, 0].to(self._dtype)
        seen = (slice(None, len(step.rows)), slice(None), slice(None, step.width))
        return self.keys[seen], self.values[seen]

    def get_seq_length(self) -> int:
        """Tokens before the one that is being written, of the longest row."""
        return max(0, self._step.width - 1)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tokens that a mask would span; masks are given ready-made."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No limit of its own."""
        return -1


def seen_mask(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Which tokens of its slot each row may see: [m, 1, 1, s] of bool."""
    ends = torch.tensor(lengths, device=device).view(-1, 1, 1, 1)
    return torch.arange(max(lengths), device=device).view(1, 1, 1, -1) < ends
