"""What a step of generation costs with torch's fused attention kernel, and with ours.

    python -m tests.benchmarks.decode_step [--layers 30]

A random Llama of SmolLM2-135M's shape in bfloat16 on one thread; steps of both kinds alternate,
so that other work on the machine slows them alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_engine.attention import NAME, use_one_query_attention
from rlhf_engine.backbone import Backbone
from rlhf_engine.decoding import Decoder
from rlhf_engine.generation import limited_threads
from rlhf_engine.records import SamplingSettings

# Nothing ends an answer: every step has all its rows.
TOKENIZER: Any = SimpleNamespace(eos_token_id=-1, pad_token_id=0)
SIZES = ((1, 128), (16, 128), (16, 384))


def random_backbone(layers: int) -> Backbone:
    """SmolLM2-135M's shape with random weights."""
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    use_one_query_attention(model)
    return Backbone(model, TOKENIZER)


def measured(backbone: Backbone, rows: int, prompt: int, steps: int) -> dict[str, float]:
    """Median seconds a step, by attention."""
    times: dict[str, list[float]] = {"sdpa": [], NAME: []}
    settings = SamplingSettings(temperature=1.0, max_new_tokens=10_000)
    decoders = {}
    for name in times:
        # The kind of cache goes with the kind of attention.
        backbone.model.set_attn_implementation(name)
        decoders[name] = Decoder(backbone, None)
        decoders[name].admit([1 + at for at in range(prompt)], range(rows), settings)
    for _ in range(steps):
        for name, found in times.items():
            backbone.model.set_attn_implementation(name)
            before = time.perf_counter()
            decoders[name].step()
            found.append(time.perf_counter() - before)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def main(argv: Sequence[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args(argv)
    table = Table("rows", "prompt tokens", "torch's kernel, ms", "ours, ms", "ratio")
    with limited_threads(1):
        backbone = random_backbone(options.layers)
        for rows, prompt in SIZES:
            found = measured(backbone, rows, prompt, options.steps)
            theirs, ours = found["sdpa"], found[NAME]
            figures = (f"{1e3 * theirs:.0f}", f"{1e3 * ours:.0f}", f"{theirs / ours:.2f}x")
            table.add_row(str(rows), str(prompt), *figures)
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
