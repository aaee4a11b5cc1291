"""An adapter that changes nothing: the base policy in the form of an adapter. No torch.

A server that computes answers with and without an adapter together may give both the adapter
(vLLM on CPUs does: vllm-project/vllm#48421). Where every answer has an adapter, none can take
another's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from rlhf_engine.errors import BasePolicyError
from rlhf_engine.files import write_json
from rlhf_engine.folders import published
from rlhf_engine.policy_version import CONFIG, WEIGHTS

TARGETS = ("q_proj", "c_attn", "qkv_proj", "query_key_value", "o_proj", "down_proj")


def idle_adapter(base: Path, folder: Path) -> Path:
    """Write it as a PEFT folder of rank 1, where it is not there yet; returns `folder`.

    BasePolicyError where the base policy has no layer of a kind that is known.
    """
    if (folder / WEIGHTS).is_file():
        return folder
    shapes = dict(_weights(base))
    for target in TARGETS:
        chosen = {name: shape for name, shape in shapes.items() if name.endswith(f".{target}")}
        if chosen:
            _write(folder, target, chosen)
            return folder
    raise BasePolicyError(
        f"{base} has none of the layers {', '.join(TARGETS)}; vLLM cannot serve it beside its "
        "adapters, use the built-in engine"
    )


def _weights(base: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name and shape, out by in, of each matrix of the base policy."""
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                shape = file.get_slice(name).get_shape()
                if len(shape) == 2:
                    yield name.removesuffix(".weight"), (shape[0], shape[1])


def _write(folder: Path, target: str, layers: dict[str, tuple[int, int]]) -> None:
    tensors = {}
    for name, (out, into) in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = np.zeros((1, into), np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = np.zeros((out, 1), np.float32)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "bias": "none",
        "r": 1,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "target_modules": [target],
    }
    with published(folder) as temporary:
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        write_json(temporary / CONFIG, config)
