"""Adapters of stored PolicyVersions, put beside others on a backbone that is answering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
import torch

from rlhf_engine.backbone import Backbone, read_adapter
from rlhf_engine.errors import PolicyVersionError
from rlhf_engine.policy_version import PolicyVersionFolder

log = structlog.get_logger(__name__)

AdapterFiles = tuple[dict[str, Any], dict[str, torch.Tensor]]


def read_verified(path: Path, base: Path) -> tuple[str, AdapterFiles | None]:
    """A stored version's id and adapter, None for version 0. Needs no backbone.

    PolicyVersionError where the folder fails verification or holds values not finite.
    """
    version = PolicyVersionFolder.open(path, base)
    if version.is_base:
        return version.id, None
    config, weights = read_adapter(version.path)
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise PolicyVersionError(
                f"policy version {version.id} holds values that are not finite ({name}); "
                "it is not loaded, train again"
            )
    return version.id, (config, weights)


def install(backbone: Backbone, name: str, files: AdapterFiles) -> None:
    """Add an adapter; PolicyVersionError, and nothing of it stays, if it does not fit."""
    try:
        backbone.install_adapter(name, *files)
    except Exception as error:
        drop(backbone, name)
        raise PolicyVersionError(
            f"policy version {name} does not fit the base policy: {error}; train again"
        ) from error


def drop(backbone: Backbone, name: str) -> None:
    """Remove an adapter if it is there."""
    if name not in backbone.adapters:
        return
    try:
        # peft complains when the adapter that is switched on goes while there are others.
        for other in set(backbone.adapters) - {name}:
            with backbone.using(other):
                break
        backbone.remove_adapter(name)
    except Exception as error:  # noqa: BLE001 - answers go on, some memory stays in use
        log.warning(
            "policy_version_not_dropped", version=name, error=repr(error), next="restart when idle"
        )
