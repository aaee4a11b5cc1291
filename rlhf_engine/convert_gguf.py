"""GGUF to bf16 safetensors and tokenizer: `python -m rlhf_engine.convert_gguf GGUF FOLDER`.

A process of its own, so that the memory of the conversion goes back when it ends.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def convert(gguf: Path, folder: Path) -> None:
    """Read the quantised weights as plain bf16 tensors and save them with the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
    )
    _forget_quantizer(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _forget_quantizer(model: Any) -> None:
    """Clear the marks that make `save_pretrained` refuse; the tensors are plain by now."""
    model.hf_quantizer = None
    for owner, name in (
        (model, "is_quantized"),
        (model, "quantization_method"),
        (model.config, "quantization_config"),
    ):
        if hasattr(owner, name):
            delattr(owner, name)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
