"""What PPO writes after each rollout batch: parameters, optimizer and counters, one safetensors
file, replaced atomically. No random state is kept, since every random stream is derived
from the seed and the batch number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rlhf_engine.errors import RunFolderError
from rlhf_engine.files import replaced


def save_checkpoint(
    path: Path,
    optimizers: Sequence[torch.optim.Optimizer],
    kept: Sequence[torch.Tensor],
    state: dict[str, Any],
) -> None:
    """Write the optimizers' parameters and moments, and the tensors `kept`; `state` holds plain
    JSON types."""
    tensors = {f"kept.{at}": value.cpu().contiguous() for at, value in enumerate(kept)}
    for name, optimizer, parameter in _parameters(optimizers):
        tensors[f"{name}.value"] = parameter.detach().cpu().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}.moment.{key}"] = value.detach().cpu().contiguous()
    with replaced(path) as temporary:
        save_file(tensors, str(temporary), metadata={"state": json.dumps(state)})


def load_checkpoint(
    path: Path, optimizers: Sequence[torch.optim.Optimizer], kept: Sequence[torch.Tensor]
) -> dict[str, Any] | None:
    """Put everything back in place and return the state, or None where there is no checkpoint.

    RunFolderError where the file is damaged or belongs to a run of other sizes.
    """
    if not path.exists():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            state: dict[str, Any] = json.loads(file.metadata()["state"])
        for at, value in enumerate(kept):
            value.copy_(tensors[f"kept.{at}"])
        for name, optimizer, parameter in _parameters(optimizers):
            with torch.no_grad():
                parameter.copy_(tensors[f"{name}.value"])
            _restore_moments(optimizer, parameter, tensors, f"{name}.moment.")
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise RunFolderError(
            f"checkpoint {path} cannot be used: {error}; delete it to start the stage again"
        ) from error
    return state


def _parameters(
    optimizers: Sequence[torch.optim.Optimizer],
) -> Iterator[tuple[str, torch.optim.Optimizer, torch.nn.Parameter]]:
    """Every parameter under a name that is the same in each process."""
    for number, optimizer in enumerate(optimizers):
        for at, parameter in enumerate(optimizer.param_groups[0]["params"]):
            yield f"{number}.{at}", optimizer, parameter


def _restore_moments(
    optimizer: torch.optim.Optimizer,
    parameter: torch.nn.Parameter,
    tensors: dict[str, torch.Tensor],
    prefix: str,
) -> None:
    found = {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
    if found:
        optimizer.state[parameter] = {
            key: value if key == "step" else value.to(parameter.device)
            for key, value in found.items()
        }
