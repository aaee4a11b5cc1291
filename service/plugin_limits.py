"""How long and how much a plugin may take, before it is stopped."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PluginLimits(BaseModel):
    """What a plugin's process may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    call_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds that a plugin may take for one call, and a data source from one item to the next."""
    start_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds that a plugin's process may take to start and import the plugin."""
    rerank_s: float = Field(default=2.0, gt=0, le=60)
    """Seconds that a reranker may take; after that the passages stay in the order found."""
    memory_mb: int = Field(default=2048, ge=128, le=1_048_576)
    """Megabytes of memory that a plugin's process may ask for."""
    failures: int = Field(default=5, ge=1, le=1000)
    """Failures in a row after which a plugin is switched off and operators are told."""
