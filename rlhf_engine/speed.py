"""How fast this machine is with a base policy, and which number format suits it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import linear

from rlhf_engine.backbone import Backbone, default_device
from rlhf_engine.decoding import Decoder
from rlhf_engine.generation import limited_threads
from rlhf_engine.records import SamplingSettings

PREFERENCE = 1.3
"""bfloat16 is taken where it is this many times as fast as float32; float32 is more exact."""

PROMPT_TOKENS = 128
DECODE_ROWS = (1, 16)
SPENT_S = 1.0
LEAST_TRIES = 3


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """What was measured, in the number format `dtype`, which is the one to use.

    Figures are by number format. `forward_tokens_per_s` counts tokens read without gradients;
    with LoRA gradients a token costs about three times as much. `decode_step_s` is seconds a
    step, by rows in the batch.
    """

    dtype: str
    threads: int
    forward_tokens_per_s: dict[str, float]
    decode_step_s: dict[str, dict[int, float]]


def measure_speed(base: Path, threads: int = 2, dtype: str = "auto") -> SpeedReport:
    """Load the base policy and time it for a few seconds; "auto" chooses the number format."""
    chosen = faster_dtype(base, threads) if dtype == "auto" else dtype
    with limited_threads(threads):
        backbone = Backbone.load(base, chosen)
        return SpeedReport(
            dtype=chosen,
            threads=threads,
            forward_tokens_per_s={chosen: _forward_tokens_per_s(backbone)},
            decode_step_s={chosen: {rows: _decode_step_s(backbone, rows) for rows in DECODE_ROWS}},
        )


def faster_dtype(base: Path, threads: int = 2) -> str:
    """The number format to use, from matrix products of the base policy's width.

    No weights are loaded; takes about half a second.
    """
    if default_device() != "cpu":
        return "bfloat16"
    config = json.loads((Path(base) / "config.json").read_text(encoding="utf-8"))
    width = int(config.get("text_config", config).get("hidden_size", 512))
    with limited_threads(threads):
        rate = {
            dtype: 1 / _seconds(_product(width, dtype), spent_s=0.2)
            for dtype in (torch.bfloat16, torch.float32)
        }
    return _preferred(rate[torch.bfloat16], rate[torch.float32])


def _preferred(bfloat16: float, float32: float) -> str:
    return "bfloat16" if bfloat16 >= PREFERENCE * float32 else "float32"


def _product(width: int, dtype: torch.dtype) -> Callable[[], None]:
    tokens = torch.ones(PROMPT_TOKENS, width, dtype=dtype)
    weights = torch.ones(4 * width, width, dtype=dtype)

    @torch.inference_mode()
    def multiply() -> None:
        linear(tokens, weights)

    return multiply


def _forward_tokens_per_s(backbone: Backbone) -> float:
    ids = torch.tensor([_some_tokens(backbone)], device=backbone.device)

    @torch.inference_mode()
    def forward() -> None:
        last = torch.tensor([ids.shape[1] - 1], device=ids.device)
        output = backbone.model(input_ids=ids, use_cache=False, logits_to_keep=last)
        output.logits.float().sum().item()  # waits for an accelerator

    return PROMPT_TOKENS / _seconds(forward)


def _decode_step_s(backbone: Backbone, rows: int) -> float:
    # Enough room that no row ends at the limit while it is being timed.
    settings = SamplingSettings(temperature=1.0, max_new_tokens=256)
    decoder = Decoder(backbone, None)

    def step() -> None:
        if len(decoder.active) < rows:
            for number in list(decoder.active):
                decoder.forget(number)
            decoder.admit(_some_tokens(backbone), range(rows), settings)
        decoder.step()

    return _seconds(step)


def _some_tokens(backbone: Backbone) -> list[int]:
    ids: list[int] = backbone.tokenizer.encode("The office is open. " * 40)
    return (ids * PROMPT_TOKENS)[:PROMPT_TOKENS]


def _seconds(task: Callable[[], None], spent_s: float | None = None) -> float:
    """The best of three tries or more: other work on the machine only ever makes it slower."""
    task()
    spent_s = SPENT_S if spent_s is None else spent_s
    times: list[float] = []
    while len(times) < LEAST_TRIES or sum(times) < spent_s:
        before = time.perf_counter()
        task()
        times.append(time.perf_counter() - before)
    return min(times)
