"""What the reward model's training begins with: the last cycle's adapters and heads where they
fit, else the SFT policy's adapter and the heads that its states give (first_heads.py).

Legend: k heads, h hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_engine.backbone import SCORE_KEY, Backbone, lora_config, read_adapter
from rlhf_engine.base_policy import base_hash
from rlhf_engine.errors import PolicyVersionError
from rlhf_engine.first_heads import first_heads, read_differences
from rlhf_engine.plan import RunPlan
from rlhf_engine.reward_model import Scale, adapter_folder, adapter_name, read_layers
from rlhf_engine.stage import Stage

Stored = tuple[dict[str, Any], dict[str, Tensor]]
"""A stored adapter's configuration and weights."""


@dataclass(frozen=True, slots=True)
class WarmStart:
    """The last cycle's adapters, or none; `refused` says why they were not taken, "" where none
    were named."""

    adapters: tuple[Stored, ...] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Heads [k, h] and the adapters they belong to: stored ones, or for none the SFT policy's."""

    heads: Tensor
    adapters: tuple[Stored, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)

    def install(self, stage: Stage, backbone: Backbone, number: int) -> Tensor:
        """Put adapter `number` on the backbone as training begins; returns its heads."""
        name = adapter_name(number)
        if self.adapters:
            backbone.install_adapter(name, *self.adapters[number])
        elif not backbone.has_adapter(name):
            _install_sft(stage, backbone, number)
        if stage.plan.reward_model.separate_adapters:
            return self.heads[number : number + 1].clone()
        return self.heads.clone()


def begin(stage: Stage, backbone: Backbone, rows: Sequence[dict[str, Any]]) -> Beginning:
    """What to begin with; `rows` hold all pairs to learn from with every head's weights."""
    last = warm_start(stage.plan, backbone)
    if last.adapters:
        heads = torch.cat([weights[SCORE_KEY].float() for _, weights in last.adapters])
        return Beginning(heads, last.adapters, {"warm_started": True})
    _install_sft(stage, backbone, 0)
    with backbone.using(adapter_name(0)):
        pairs, scale = read_differences(
            backbone,
            rows,
            read_layers(backbone, stage.plan.reward_model),
            lambda done, of: stage.tell(done, of, "reading the voted answers"),
        )
    found = first_heads(
        pairs, scale, lambda done, of: stage.tell(done, of, "fitting the first heads")
    )
    figures: dict[str, Any] = {"warm_started": False}
    if last.refused:
        figures["warm_start_refused"] = last.refused
    if found is None:
        return Beginning(_drawn_heads(stage.plan, backbone), figures=figures)
    known = {"first_heads_ridge": found.ridge, "first_heads_accuracy": found.accuracy}
    return Beginning(found.heads, figures=figures | known)


def _drawn_heads(plan: RunPlan, backbone: Backbone) -> Tensor:
    """Random heads [k, h], where votes are too few for a forecast."""
    drawn = torch.Generator().manual_seed(plan.seed)
    heads = torch.randn(plan.reward_model.heads, backbone.width, generator=drawn)
    return heads / math.sqrt(backbone.width + 1)


def _install_sft(stage: Stage, backbone: Backbone, number: int) -> None:
    """Adapter `number` of the first layers: where the SFT policy's has one of the same shape, as
    that one, else begun anew."""
    config, weights = read_adapter(stage.run.stage_path("sft") / "adapter")
    name, lora = adapter_name(number), stage.plan.lora
    torch.manual_seed(stage.plan.seed + number)
    backbone.new_adapter(name, lora, read_layers(backbone, stage.plan.reward_model))
    if (config.get("r"), config.get("lora_alpha")) == (lora.rank, lora.alpha):
        backbone.copy_into_adapter(name, weights)


def warm_start(plan: RunPlan, backbone: Backbone) -> WarmStart:
    """The last cycle's reward model, if the plan names one that fits; else why not."""
    if plan.reward_model.warm_start is None:
        return WarmStart()
    folder, wanted = Path(plan.reward_model.warm_start), plan.reward_model
    adapters = wanted.heads if wanted.separate_adapters else 1
    try:
        scale = Scale.read(folder)
        stored = tuple(read_adapter(adapter_folder(folder, at)) for at in range(scale.adapters))
    except (OSError, ValueError, TypeError, KeyError, PolicyVersionError) as error:
        return WarmStart(refused=f"{folder} cannot be read: {error}")
    if scale.base != base_hash(Path(plan.base)):
        return WarmStart(refused="it was trained on another base policy")
    layers = read_layers(backbone, wanted)
    if scale.layers != layers:
        return WarmStart(
            refused=f"it reads after layer {scale.layers}, the plan after layer {layers}"
        )
    if (scale.adapters, len(scale.means)) != (adapters, wanted.heads):
        return WarmStart(
            refused=f"it has {len(scale.means)} heads over {scale.adapters} adapters, the plan "
            f"{wanted.heads} over {adapters}"
        )
    misfit = next(filter(None, (_misfit(config, plan, backbone) for config, _ in stored)), "")
    return WarmStart(refused=misfit) if misfit else WarmStart(stored)


def _misfit(config: dict[str, Any], plan: RunPlan, backbone: Backbone) -> str:
    """Where a stored adapter differs from the plan's, in a sentence; "" where it fits."""
    layers = read_layers(backbone, plan.reward_model)
    wanted = lora_config(backbone.model, plan.lora, layers)
    for name, planned in (
        ("r", wanted.r),
        ("lora_alpha", wanted.lora_alpha),
        ("layers_to_transform", wanted.layers_to_transform),
    ):
        if config.get(name) != planned:
            return f"its {name} is {config.get(name)}, the plan's {planned}"
    return ""
