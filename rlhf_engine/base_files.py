"""What a base policy's files must be: safetensors, a known architecture, no code, nothing cut."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from rlhf_engine.errors import BasePolicyError

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Environment of whatever reads a base policy and must ask no hub."""

CODE_SUFFIXES = frozenset({".py", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5"})


def check_files(folder: Path) -> dict[str, Any]:
    """Check everything but the weights' values; returns config.json. BasePolicyError otherwise."""
    if not folder.is_dir():
        raise BasePolicyError(f"{folder} is no folder; give a base policy's folder or hub name")
    refuse_code(folder)
    config = _read_config(folder)
    _check_weights(folder)
    return config


def refuse_code(folder: Path) -> None:
    """Raise BasePolicyError if the folder holds a file of a kind that runs code when loaded."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in CODE_SUFFIXES:
            raise BasePolicyError(
                f"{path} can run code when it is loaded; Heed reads safetensors only. "
                "Remove it, or convert the weights to safetensors"
            )


def _read_config(folder: Path) -> dict[str, Any]:
    for name in ("config.json", "tokenizer_config.json"):
        try:
            data = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BasePolicyError(f"{folder / name} cannot be read: {error}") from error
        if "auto_map" in data:
            raise BasePolicyError(
                f"{folder / name} asks to run code of its own (auto_map); "
                "take a base policy whose architecture transformers knows"
            )
        if name == "config.json":
            config: dict[str, Any] = data
    _check_architecture(folder, config)
    return config


def _check_architecture(folder: Path, config: dict[str, Any]) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = config.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise BasePolicyError(
            f"{folder} holds a model of type {kind!r}, which is no causal language model"
        )


def _check_weights(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BasePolicyError(f"{folder} has no weights: no *.safetensors file")
    for path in _indexed(folder):
        if not path.is_file():
            raise BasePolicyError(f"{path} is missing, though the weights' index names it")
    for path in files:
        if not is_whole(path):
            raise BasePolicyError(f"{path} is cut off or damaged; fetch the base policy again")


def _indexed(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [folder / name for name in sorted(set(shards))]


def is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    with path.open("rb") as file:
        try:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(min(length, 100_000_000)))
            ends = [item["data_offsets"][1] for key, item in header.items() if key[:2] != "__"]
        except (struct.error, ValueError, KeyError, TypeError):
            return False
    return path.stat().st_size == 8 + int(length) + max(ends, default=0)
