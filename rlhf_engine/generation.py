"""Answers to many prompts: how rollouts, evaluation and the service's training side ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from rlhf_engine.backbone import Backbone
from rlhf_engine.decoding import BATCH_SIZE, Decoder, Row
from rlhf_engine.records import Prompt, SampledAnswer, SamplingSettings
from rlhf_engine.render import answer_text, prompt_ids


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
    how many answers are done. On a CPU an answer depends on its prompt, seed and settings alone.
    """
    each = len(seeds) // len(prompts)
    decoder, begun = Decoder(backbone, adapter), list[int]()
    for at, prompt in enumerate(prompts):
        while decoder.active and len(decoder.active) + each > batch_size:
            _step(decoder, len(begun), on_answers)
        ids = prompt_ids(backbone.tokenizer, prompt, max_prompt_tokens)
        begun += decoder.admit(ids, seeds[at * each : (at + 1) * each], settings)
    while not decoder.done:
        _step(decoder, len(begun), on_answers)
    return [
        sampled_answer(backbone, decoder.rows[row], prompts[at // each].id, seeds[at])
        for at, row in enumerate(begun)
    ]


def _step(decoder: Decoder, begun: int, on_answers: Callable[[int], None] | None) -> None:
    decoder.step()
    if on_answers is not None:
        on_answers(begun - len(decoder.active))


def sampled_answer(backbone: Backbone, row: Row, prompt_id: str, seed: int) -> SampledAnswer:
    """A decoder's row as a record."""
    ended = bool(row.tokens) and row.tokens[-1] == backbone.eos_id
    return SampledAnswer(
        prompt_id=prompt_id,
        text=answer_text(backbone.tokenizer, row.tokens),
        token_ids=tuple(row.tokens),
        logprobs=tuple(row.logprobs),
        finish_reason="stop" if ended else "length",
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
