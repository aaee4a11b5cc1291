"""Answers, token by token: one decoding core for rollouts, evaluation and service.

A Decoder holds one batch of rows and its key-value cache. Each `step` draws one
token a row. Rows that ended are dropped from the batch, and further prompts can be
admitted in their place: a step over few rows costs hardly less than one over many.
Sampling uses nothing of the base policy's own generation settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rlhf_engine.backbone import Backbone
from rlhf_engine.errors import GenerationError
from rlhf_engine.records import Prompt, SampledAnswer, SamplingSettings
from rlhf_engine.render import answer_text, prompt_ids

BATCH_SIZE = 16
"""Rows answered at once: more are hardly faster on a CPU, and need more memory."""


BLOCK = 256
"""Tokens whose probabilities are added up together when one is drawn."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token drawn for one row; `logprob` is at the sampling temperature."""

    row: int
    token_id: int
    logprob: float


class Decoder:
    """One batch of rows being answered by one adapter.

    There are g seeds for each prompt, in the prompts' order: a prompt is computed once, and
    its cache repeated for its g rows.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: str | None,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        settings: SamplingSettings,
    ) -> None:
        self.backbone, self.adapter, self.settings = backbone, adapter, settings
        self.tokens: list[list[int]] = []
        self.logprobs: list[list[float]] = []
        self.active: list[int] = []
        self._generators: list[torch.Generator] = []
        self._cache: DynamicCache | None = None
        self._mask: Tensor
        self._position: Tensor
        self._next_logits: Tensor
        self.admit(prompts, seeds)

    @torch.inference_mode()
    def admit(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> None:
        """Add rows to the batch, g seeds a prompt; they are numbered on from the last row.

        Where rows are active already, `can_admit` must hold.
        """
        if not prompts or len(seeds) % len(prompts):
            raise GenerationError(
                f"{len(seeds)} seeds cannot be shared out to {len(prompts)} prompts"
            )
        first = len(self.tokens)
        self.tokens += [[] for _ in seeds]
        self.logprobs += [[] for _ in seeds]
        self._generators += [torch.Generator().manual_seed(seed) for seed in seeds]
        self._prefill(prompts, len(seeds))
        self.active += range(first, first + len(seeds))

    @property
    def can_admit(self) -> bool:
        """Whether rows can join active ones; not where layers keep a window of tokens only."""
        layers = [] if self._cache is None else self._cache.layers
        return all(type(layer) is DynamicLayer for layer in layers)

    @property
    def done(self) -> bool:
        """Whether every row has ended."""
        return not self.active

    @torch.inference_mode()
    def step(self) -> list[Drawn]:
        """Draw one token for each active row, in row order."""
        token_ids, logprobs = self._draw(self._next_logits)
        drawn = [
            Drawn(row, token, logprob)
            for row, token, logprob in zip(self.active, token_ids, logprobs, strict=True)
        ]
        for item in drawn:
            self.tokens[item.row].append(item.token_id)
            self.logprobs[item.row].append(item.logprob)
        self._drop_ended(token_ids)
        if self.active:
            self._advance()
        return drawn

    def cancel(self, row: int) -> None:
        """End one row now; its tokens so far stay."""
        if row in self.active:
            kept = [at for at, active in enumerate(self.active) if active != row]
            self._keep(kept)

    def finish_reason(self, row: int) -> str:
        """ "stop" where the policy ended the answer itself, else "length"."""
        tokens = self.tokens[row]
        return "stop" if tokens and tokens[-1] == self.backbone.eos_id else "length"

    def _prefill(self, prompts: Sequence[Sequence[int]], rows: int) -> None:
        batch = self.backbone.group(prompts, [[] for _ in prompts])
        mask = batch.prompt_mask
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.backbone.model.config)
        logits = self._forward(batch.prompts, mask, positions, cache)
        each = rows // len(prompts)
        if each > 1:
            cache.batch_repeat_interleave(each)
        mask, position, logits = (
            tensor.repeat_interleave(each, 0) for tensor in (mask, positions[:, -1:], logits)
        )
        if self._cache is not None:
            mask = self._joined(cache, mask)
            position = torch.cat([self._position, position])
            logits = torch.cat([self._next_logits, logits])
        self._cache, self._mask = cache, mask
        self._position, self._next_logits = position, logits

    def _joined(self, cache: DynamicCache, mask: Tensor) -> Tensor:
        """Put the active rows' keys and values before those of `cache`; both rows' mask. What is
        shorter is padded on the left, where a prompt's padding is."""
        assert self._cache is not None
        unused = int(self._mask.argmax(dim=1).min())
        own = self._mask[:, unused:]
        width = max(own.shape[1], mask.shape[1])
        for old, new in zip(self._cache.layers, cache.layers, strict=True):
            for name in ("keys", "values"):
                kept = getattr(old, name)[:, :, unused:]
                pair = (kept, getattr(new, name))
                setattr(new, name, torch.cat([_padded(each, width, dim=2) for each in pair]))
        return torch.cat([_padded(own, width, dim=1), _padded(mask, width, dim=1)])

    def _forward(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache | None
    ) -> Tensor:
        with self.backbone.using(self.adapter):
            output = self.backbone.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _draw(self, logits: Tensor) -> tuple[list[int], list[float]]:
        """Draw from [b, v] logits; each row uses its own random stream."""
        greedy = self.settings.temperature == 0
        scaled = logits if greedy else logits / self.settings.temperature
        normaliser = scaled.logsumexp(dim=-1, keepdim=True)
        if greedy:
            tokens = scaled.argmax(dim=-1, keepdim=True)
        else:
            tokens = self._draw_rows((scaled - normaliser).exp_())
        chosen = (scaled.gather(1, tokens) - normaliser).squeeze(1)
        if not torch.isfinite(chosen).all():
            raise GenerationError("the policy's logits are not finite; its weights are damaged")
        return tokens.squeeze(1).tolist(), chosen.tolist()

    def _draw_rows(self, probabilities: Tensor) -> Tensor:
        """One token a row, [b, 1], from probabilities [b, v]."""
        if self.settings.top_p < 1:
            probabilities = _nucleus(probabilities, self.settings.top_p)
        uniform = torch.tensor(
            [
                torch.rand((), generator=self._generators[row], dtype=torch.float64).item()
                for row in self.active
            ],
            dtype=torch.float64,
            device=probabilities.device,
        )
        return _inverted(probabilities, uniform.unsqueeze(1))

    def _drop_ended(self, token_ids: list[int]) -> None:
        kept = [
            at
            for at, (row, token) in enumerate(zip(self.active, token_ids, strict=True))
            if token != self.backbone.eos_id
            and len(self.tokens[row]) < self.settings.max_new_tokens
        ]
        self._keep(kept)

    def _keep(self, kept: list[int]) -> None:
        if len(kept) == len(self.active):
            return
        self.active = [self.active[at] for at in kept]
        if not kept:
            self._cache = None  # frees the memory of a batch that ended
            return
        assert self._cache is not None
        index = torch.tensor(kept, device=self._mask.device)
        self._cache.batch_select_indices(index)
        self._mask, self._position = self._mask[index], self._position[index]
        self._next_logits = self._next_logits[index]

    def _advance(self) -> None:
        last = torch.tensor(
            [[self.tokens[row][-1]] for row in self.active], device=self._mask.device
        )
        self._mask = torch.cat([self._mask, torch.ones_like(last)], dim=1)
        self._position = self._position + 1
        self._next_logits = self._forward(last, self._mask, self._position, self._cache)


def _inverted(probabilities: Tensor, uniform: Tensor) -> Tensor:
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
    return block * BLOCK + torch.minimum(within, last)


def _padded(tensor: Tensor, width: int, dim: int) -> Tensor:
    """Zeros put before `tensor` along `dim` until it is `width` long there."""
    shape = list(tensor.shape)
    shape[dim] = width - shape[dim]
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim) if shape[dim] else tensor


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep the likeliest tokens of each row until they hold `top_p`; the rest becomes 0. [b, v]"""
    ordered, order = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    return torch.zeros_like(probabilities).scatter(
        1, order, ordered.masked_fill(before >= top_p, 0.0)
    )


def generate(
    backbone: Backbone,
    adapter: str | None,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    settings: SamplingSettings,
    *,
    max_prompt_tokens: int,
    batch_size: int = BATCH_SIZE,
    on_answers: Callable[[int], None] | None = None,
) -> list[SampledAnswer]:
    """As many answers a prompt as there are seeds for it, in the seeds' order.

    The seeds of prompt i are those at i g to i g + g - 1. At most `batch_size` answers are
    drawn at once (one prompt's at least); as rows end, further prompts join. `on_answers` hears
    how many answers are done. An answer's tokens depend on its
    seed, and, in the last bits of a probability, on the batch it was drawn in.
    """
    each = len(seeds) // len(prompts)
    ids = [prompt_ids(backbone.tokenizer, prompt, max_prompt_tokens) for prompt in prompts]
    # The longest first: what joins later then never makes the rows before it longer.
    waiting = sorted(range(len(prompts)), key=lambda at: (-len(ids[at]), at))
    places: list[int] = []
    decoder = None
    while waiting or (decoder is not None and not decoder.done):
        room = max(1, batch_size // each) if decoder is None else _room(decoder, batch_size, each)
        if waiting and room:
            picked, waiting = waiting[:room], waiting[room:]
            new = [at * each + copy for at in picked for copy in range(each)]
            joining = [ids[at] for at in picked], [seeds[at] for at in new]
            places += new
            if decoder is None:
                decoder = Decoder(backbone, adapter, *joining, settings)
            else:
                decoder.admit(*joining)
        assert decoder is not None
        decoder.step()
        if on_answers is not None:
            on_answers(len(places) - len(decoder.active))
    rows = {place: row for row, place in enumerate(places)}
    return [
        sampled_answer(decoder, rows[at], prompts[at // each].id, seeds[at])
        for at in range(len(seeds))
        if decoder is not None
    ]


def _room(decoder: Decoder, batch_size: int, each: int) -> int:
    """How many prompts may join: as many as the batch has room for, once half of it is free."""
    if decoder.done:
        return max(1, batch_size // each)
    if len(decoder.active) > batch_size // 2 or not decoder.can_admit:
        return 0
    return (batch_size - len(decoder.active)) // each


def sampled_answer(decoder: Decoder, row: int, prompt_id: str, seed: int) -> SampledAnswer:
    """What a row of the decoder holds, as a record."""
    tokens = decoder.tokens[row]
    return SampledAnswer(
        prompt_id=prompt_id,
        text=answer_text(decoder.backbone.tokenizer, tokens),
        token_ids=tuple(tokens),
        logprobs=tuple(decoder.logprobs[row]),
        finish_reason="stop" if decoder.finish_reason(row) == "stop" else "length",
        seed=seed,
    )


def sample_answers(
    base: Path,
    version: Path | None,
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    seeds: Sequence[int],
    *,
    dtype: str = "float32",
    threads: int = 2,
    max_prompt_tokens: int = 384,
    on_answers: Callable[[int], None] | None = None,
) -> list[SampledAnswer]:
    """Load a policy (`version` is an adapter folder, None the base policy) and answer prompts, as
    `generate` does."""
    with limited_threads(threads):
        backbone = Backbone.load(base, dtype)
        adapter = None
        if version is not None:
            adapter = "policy"
            backbone.add_adapter(adapter, version)
        return generate(
            backbone,
            adapter,
            prompts,
            seeds,
            settings,
            max_prompt_tokens=max_prompt_tokens,
            on_answers=on_answers,
        )


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Let torch use this many CPU threads, and put the old number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
