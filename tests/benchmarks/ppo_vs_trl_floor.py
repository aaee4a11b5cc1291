"""The arithmetic floor of a PPO batch: the least time its matrix products take on this machine.

Counted are the passes that one backbone with adapters needs, each prompt once for all its
answers:

    rollout   prompt and answers, output head at each sampled token
    score     policy and reference (trunk and head), reward model (trunk)
    update    an epoch: policy forward, and backward through the frozen weights, which costs as
              much again, and the adapters' own gradients

The floor is that many floating-point operations over the rate of a large matrix product in the
same number format with as many threads. Sampling one token at a time reads all weights for a
few rows, so that rollout stays far above its floor.

Legend: p prompt tokens, t answer tokens, h hidden width.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rlhf_engine.generation import limited_threads

PRODUCT_WIDTHS = (512, 1024, 2048)
SPENT_S = 1.0


@dataclass(frozen=True)
class Shape:
    """Numbers of a Llama-like network; `adapter` are the LoRA parameters of a layer."""

    layers: int
    hidden: int
    query: int
    key_value: int
    intermediate: int
    vocabulary: int
    rank: int

    @classmethod
    def read(cls, base: Path, rank: int) -> Shape:
        """From the base policy's config.json."""
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        width = config.get("head_dim") or hidden // heads
        return cls(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            query=heads * width,
            key_value=config["num_key_value_heads"] * width,
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            rank=rank,
        )

    @property
    def products(self) -> list[tuple[int, int]]:
        """Input and output width of a layer's matrices."""
        h, q, kv, m = self.hidden, self.query, self.key_value, self.intermediate
        return [(h, q), (h, kv), (h, kv), (q, h), (h, m), (h, m), (m, h)]

    @property
    def weights(self) -> int:
        """Parameters of all layers' matrices."""
        return self.layers * sum(wide * high for wide, high in self.products)

    @property
    def adapter(self) -> int:
        """LoRA parameters of all layers."""
        return self.layers * sum(self.rank * (wide + high) for wide, high in self.products)


@dataclass(frozen=True)
class Floor:
    """Floating-point operations of a batch, by phase."""

    rollout: float
    score: float
    update: float

    @property
    def total(self) -> float:
        """All phases."""
        return self.rollout + self.score + self.update


def floor(
    shape: Shape, prompts: Sequence[int], answers_per_prompt: int, answer: float, epochs: int
) -> Floor:
    """Operations of a batch: `prompts` are the lengths of its different prompts, `answer` the
    mean length of an answer."""
    answers = answer * answers_per_prompt * len(prompts)
    tokens = sum(prompts) + answers
    trunk = 2 * (shape.weights + shape.adapter) * tokens + sum(
        _attention(shape, p, answers_per_prompt, answer) for p in prompts
    )
    head = 2 * shape.hidden * shape.vocabulary * answers
    adapters = 2 * shape.adapter * tokens
    return Floor(
        rollout=trunk + head,
        score=3 * trunk + 2 * head,
        update=epochs * (2 * (trunk + head) + adapters),
    )


def _attention(shape: Shape, prompt: int, answers: int, answer: float) -> float:
    """Operations of attention for one prompt and its answers: 4 a token, layer, query width and
    token looked at."""
    looked_at = prompt**2 / 2 + answers * (answer * prompt + answer**2 / 2)
    return 4 * shape.layers * shape.query * looked_at


def measured_rate(dtype: str, threads: int) -> float:
    """Operations a second of a large matrix product: the best of all tries at three widths, for
    other work on the machine only ever makes one slower."""
    with limited_threads(threads), torch.inference_mode():
        return max(_rate(width, dtype) for width in PRODUCT_WIDTHS)


def _rate(width: int, dtype: str) -> float:
    values = torch.ones(width, width, dtype=getattr(torch, dtype))
    times: list[float] = []
    torch.mm(values, values)
    while sum(times) < SPENT_S:
        before = time.perf_counter()
        torch.mm(values, values)
        times.append(time.perf_counter() - before)
    return float(2 * width**3 / min(times))
