"""Probes: does a served version compute what was trained?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_engine.generation import sample_answers
from rlhf_engine.policy_version import PolicyVersionFolder
from rlhf_engine.probes import Probe, probe_difference
from rlhf_engine.records import Prompt, SampledAnswer, SamplingSettings, to_json
from rlhf_engine.torch_engine import TorchEngine
from service import smoke
from service.errors import PromotionError
from tests.tiny import tiny_base
from tests.versions import write_adapter

PROBE = Probe(Prompt("q", "Where?"), (5, 6, 7, 8), (-0.1, -0.2, -0.3, -0.4), "float32", 384)


def answered(ids: tuple[int, ...], logprobs: tuple[float, ...]) -> SampledAnswer:
    return SampledAnswer("q", "", ids, logprobs, "length", 1)


@pytest.mark.parametrize(
    ("dtype", "ids", "logprobs", "told"),
    [
        ("float32", (5, 6, 7, 8), (-0.1, -0.2005, -0.3, -0.4), None),
        ("float32", (5, 6, 7, 8), (-0.1, -0.202, -0.3, -0.4), "lie 0.002 apart"),
        ("float32", (5, 6, 9, 8), (-0.1, -0.2, -0.3, -0.4), "token 3 of the answer to probe q"),
        ("bfloat16", (5, 6, 7, 9), (-0.1, -0.2, -0.5, -0.4), None),  # mean of 0, 0, 0.2
        ("bfloat16", (5, 6, 7, 8), (-0.1, -0.2, -0.5, -0.8), "lie 0.15 apart"),
        ("bfloat16", (5, 9, 9, 9), (-0.1, -0.2, -0.3, -0.4), "1 of 4 tokens are the same"),
    ],
)
def test_answers_may_differ_by_rounding_alone(
    dtype: str, ids: tuple[int, ...], logprobs: tuple[float, ...], told: str | None
) -> None:
    found = probe_difference([PROBE], [answered(ids, logprobs)], dtype)
    assert found is None if told is None else told in str(found)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("probes") / "base")


def test_a_version_that_computes_otherwise_than_in_training_is_not_used(
    base: Path, tmp_path: Path
) -> None:
    """The engine answers as training did; with an adapter of another scale it is found out."""
    adapter = write_adapter(base, tmp_path / "adapter", 1)
    prompts = [Prompt(f"q{at}", f"Who signs form {at}?") for at in range(3)]
    greedy = SamplingSettings(temperature=0.0, max_new_tokens=16)
    drawn = sample_answers(base, adapter, prompts, greedy, [0, 0, 0], threads=1)
    probes = [
        Probe(prompt, answer.token_ids, answer.logprobs, "float32", 384)
        for prompt, answer in zip(prompts, drawn, strict=True)
    ]
    config = adapter / "adapter_config.json"
    right = PolicyVersionFolder.store(adapter, base, tmp_path / "policies", {})
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    wrong = PolicyVersionFolder.store(adapter, base, tmp_path / "policies", {})
    engine = TorchEngine(base, "float32", threads=1)
    engine.start()
    try:
        engine.load(right)
        smoke.try_out(engine, right.id, 384, probes)
        shorter = replace(probes[0], token_ids=probes[0].token_ids[:4])
        smoke.try_out(engine, right.id, 384, [shorter])
        engine.load(wrong)
        with pytest.raises(PromotionError, match="does not answer here as it did in training"):
            smoke.try_out(engine, wrong.id, 384, probes)
    finally:
        engine.stop()
    assert to_json(probes[0])["prompt"]["id"] == "q0"
