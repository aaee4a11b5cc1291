"""Policy versions for tests: random adapters on the tiny base policy, stored and registered."""

from __future__ import annotations

from pathlib import Path

import torch
from sqlmodel import Session

import rlhf_engine
from rlhf_engine.backbone import Backbone
from rlhf_engine.plan import LoraPlan
from service import policies
from service.tables import PolicyVersion


def write_adapter(base: Path, folder: Path, seed: int, value: float | None = None) -> Path:
    """An adapter that changes what the base policy says; `value` fills its second half."""
    backbone = Backbone.load(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone.new_adapter("new", LoraPlan(rank=4))
        for name, weights in backbone.model.named_parameters():
            if "lora_B" in name:
                fresh = torch.randn_like(weights) * 0.2
                weights.data = fresh if value is None else torch.full_like(weights, value)
    backbone.save_adapter("new", folder)
    return folder


def store_version(
    base: Path, folder: Path, adapters: Path, seed: int, value: float | None = None
) -> rlhf_engine.PolicyVersionFolder:
    """Store a new version below `folder`."""
    adapter = write_adapter(base, adapters / f"adapter-{seed}", seed, value)
    return rlhf_engine.PolicyVersionFolder.store(adapter, base, folder, {"seed": seed})


def register(session: Session, folder: rlhf_engine.PolicyVersionFolder) -> PolicyVersion:
    """A candidate's row for a stored version."""
    return policies.register_candidate(session, folder, "sft", None, None, None, {})
