"""Rows answered together, token by token: one core for rollouts, evaluation and service.

Rows join and leave at any step. A row's tokens depend on its prompt, adapter, seed and
settings alone, on a CPU to the last bit, whatever else is answered beside it:
- a prompt is read alone, in chunks that begin at its start;
- attention reads each row's own tokens and no more (attention.py, slot_cache.py);
- a step computes a number of rows at which matrix products give the same bits as at any
  other such number (exactness.py), filling up with idle rows;
- each row's token is drawn alone (sampling.py).

Legend: m rows of a step, p prompt tokens, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from rlhf_engine.attention import NAME as ONE_QUERY
from rlhf_engine.backbone import Backbone
from rlhf_engine.errors import GenerationError
from rlhf_engine.exactness import exact_sizes
from rlhf_engine.records import SamplingSettings
from rlhf_engine.sampling import Draw, draw, plain_logprobs
from rlhf_engine.slot_cache import SlotCache, seen_mask

BATCH_SIZE = 16
"""Rows answered at once: more are hardly faster on a CPU, and need more memory."""

CHUNK = 128
"""Prompt tokens read at once; other rows' next tokens wait for no more than that."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token drawn for one row; `logprob` is at the sampling temperature, `plain` and those
    of the likeliest tokens in `top` at temperature 1, where the decoder tells them."""

    row: int
    token_id: int
    logprob: float
    plain: float = 0.0
    top: tuple[Draw, ...] = ()


@dataclass(frozen=True, slots=True)
class Undrawn:
    """No token could be drawn for one row, and it has ended; the others go on."""

    row: int
    error: Exception


@dataclass(slots=True)
class Row:
    """One answer under way or ended."""

    settings: SamplingSettings
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Reading:
    """A prompt that is being read, a chunk at a time."""

    def __init__(self, backbone: Backbone, adapter: str | None, prompt: Sequence[int]) -> None:
        self._backbone, self._adapter = backbone, adapter
        self._left = torch.tensor([list(prompt)], device=backbone.device)
        self.cache = DynamicCache()
        self.logits = torch.zeros(0)
        """The logits [1, v] after the last token, once it is read."""

    @property
    def done(self) -> bool:
        """Whether the whole prompt is read."""
        return self._left.shape[1] == 0

    @torch.inference_mode()
    def advance(self) -> None:
        """Read the next chunk."""
        chunk, self._left = self._left[:, :CHUNK], self._left[:, CHUNK:]
        seen = self.cache.get_seq_length()
        positions = torch.arange(seen, seen + chunk.shape[1], device=chunk.device)
        # As an index: a slice of the states is not contiguous, and torch would then copy the
        # whole output head in bfloat16, which takes longer than all layers together.
        last = torch.tensor([chunk.shape[1] - 1], device=chunk.device)
        with self._backbone.using(self._adapter):
            output = self._backbone.model(
                input_ids=chunk,
                position_ids=positions.unsqueeze(0),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=last,
            )
        self.logits = output.logits[:, -1].float()


class Decoder:
    """Rows being answered by one adapter. `rows` holds each by its number, until `forget`;
    `active` the numbers of those that go on, in the order of their slots."""

    def __init__(self, backbone: Backbone, adapter: str | None, *, plain: bool = False) -> None:
        """With `plain`, drawn tokens tell their log-probabilities at temperature 1 too."""
        self.backbone, self.adapter = backbone, adapter
        self.rows: dict[int, Row] = {}
        self.active: list[int] = []
        self._plain, self._joined = plain, 0
        self._sizes: list[int] = []
        self._cache: SlotCache | None = None
        self._logits = torch.zeros(0)

    def admit(
        self, prompt: Sequence[int], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[int]:
        """Read a prompt and begin an answer a seed; their numbers."""
        reading = Reading(self.backbone, self.adapter, prompt)
        while not reading.done:
            reading.advance()
        return self.join(reading, seeds, settings)

    @torch.inference_mode()
    def join(self, reading: Reading, seeds: Sequence[int], settings: SamplingSettings) -> list[int]:
        """Begin an answer a seed to a prompt that is read: it is computed once for all of them."""
        if not reading.done or not seeds:
            raise GenerationError("a prompt that is read, and at least one seed, are needed")
        if self._cache is None:
            self._cache = SlotCache(self._cache_dtype())
        self._cache.join(reading.cache, len(seeds))
        added = reading.logits.repeat(len(seeds), 1)
        self._logits = torch.cat([self._logits, added]) if self.active else added
        numbers = list(range(self._joined, self._joined + len(seeds)))
        self._joined += len(seeds)
        for number, seed in zip(numbers, seeds, strict=True):
            self.rows[number] = Row(settings, torch.Generator().manual_seed(seed))
        self.active += numbers
        self._sizes = exact_sizes(self.backbone, len(self.active))
        return numbers

    @property
    def done(self) -> bool:
        """Whether every row has ended."""
        return not self.active

    def step(self) -> list[Drawn]:
        """Draw one token for each active row, and compute what the next are drawn from. Where
        none can be drawn for a row, its error is raised."""
        drawn: list[Drawn] = []
        for item in self.draw():
            if isinstance(item, Undrawn):
                raise item.error
            drawn.append(item)
        self.advance()
        return drawn

    @torch.inference_mode()
    def draw(self) -> list[Drawn | Undrawn]:
        """Draw one token for each active row; `advance` comes before the next."""
        found = [self._drawn_or_not(slot, number) for slot, number in enumerate(self.active)]
        for item in found:
            if isinstance(item, Drawn):
                row = self.rows[item.row]
                row.tokens.append(item.token_id)
                row.logprobs.append(item.logprob)
        for item in found:
            if isinstance(item, Undrawn) or self._ended(item.row):
                self.end(item.row)
        return found

    @torch.inference_mode()
    def end(self, number: int) -> None:
        """End one row now; its tokens so far stay."""
        if number not in self.active:
            return
        assert self._cache is not None
        slot, last = self.active.index(number), len(self.active) - 1
        self._cache.drop(slot)
        if slot != last:
            self._logits[slot] = self._logits[last]
        self._logits = self._logits[:last]
        self.active[slot] = self.active[last]
        self.active.pop()
        if not self.active:
            self._cache = None  # frees the memory of rows that all ended

    def forget(self, number: int) -> None:
        """Drop what is known of a row."""
        self.end(number)
        self.rows.pop(number, None)

    def _drawn_or_not(self, slot: int, number: int) -> Drawn | Undrawn:
        try:
            return self._drawn(slot, number)
        except Exception as error:  # noqa: BLE001 - one row's failure must not end the others
            return Undrawn(number, error)

    def _drawn(self, slot: int, number: int) -> Drawn:
        row, logits = self.rows[number], self._logits[slot : slot + 1]
        found = draw(logits, row.settings, row.generator)
        if not self._plain:
            return Drawn(number, found.token_id, found.logprob)
        plain, top = plain_logprobs(logits, found.token_id, row.settings.top_logprobs)
        return Drawn(number, found.token_id, found.logprob, plain, tuple(top))

    def _ended(self, number: int) -> bool:
        row = self.rows[number]
        full = len(row.tokens) >= row.settings.max_new_tokens
        return full or row.tokens[-1] == self.backbone.eos_id

    @torch.inference_mode()
    def advance(self) -> None:
        """Compute the next logits of all active rows, and of idle ones up to an exact size."""
        if not self.active:
            return
        assert self._cache is not None
        n = len(self.active)
        m = next(size for size in self._sizes if size >= n)
        last = [self.rows[number].tokens[-1] for number in self.active] + [0] * (m - n)
        lengths = self._cache.begin_step(m)
        device = self.backbone.device
        with self.backbone.using(self.adapter):
            output = self.backbone.model(
                input_ids=torch.tensor(last, device=device).unsqueeze(1),
                attention_mask=seen_mask(lengths, device),
                position_ids=torch.tensor(lengths, device=device).unsqueeze(1) - 1,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
                row_lengths=lengths,
            )
        logits: Tensor = output.logits[:n, -1].float()
        self._logits = logits

    def _cache_dtype(self) -> torch.dtype:
        """One-query attention on a CPU computes in float32; converting the whole cache for each
        token would cost more than keeping it so."""
        model = self.backbone.model
        on_cpu = self.backbone.device.type == "cpu"
        own = model.config._attn_implementation == ONE_QUERY
        return torch.float32 if own and on_cpu else model.dtype
