"""Policy versions for tests: random adapters on the tiny base policy, stored and registered."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from sqlmodel import Session
from transformers import AutoModelForCausalLM

import rlhf_engine
from service import policies
from service.tables import PolicyVersion


def write_adapter(
    base: Path, folder: Path, seed: int, value: float | None = None, scale: float = 0.2
) -> Path:
    """An adapter that changes what the base policy says, by `scale`; `value` fills its second
    half instead."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    policy = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
        adapted = get_peft_model(policy, config)
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                fresh = torch.randn_like(weights) * scale
                weights.data = fresh if value is None else torch.full_like(weights, value)
    adapted.save_pretrained(folder)
    return folder


def store_version(
    base: Path,
    folder: Path,
    adapters: Path,
    seed: int,
    value: float | None = None,
    scale: float = 0.2,
) -> rlhf_engine.PolicyVersionFolder:
    """Store a new version below `folder`."""
    adapter = write_adapter(base, adapters / f"adapter-{seed}", seed, value, scale)
    return rlhf_engine.PolicyVersionFolder.store(adapter, base, folder, {"seed": seed})


def register(session: Session, folder: rlhf_engine.PolicyVersionFolder) -> PolicyVersion:
    """A candidate's row for a stored version."""
    return policies.register_candidate(session, folder, "sft", None, None, None, {})
