"""The hooks a plugin may implement. Mark yours with `plugins.hookspecs.hookimpl`."""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from plugins.contract import (
    DataSource,
    Observer,
    Redactor,
    Reranker,
    RewardSignal,
)

hookspec = pluggy.HookspecMarker("heed")
hookimpl = pluggy.HookimplMarker("heed")


@hookspec
def heed_data_sources() -> Sequence[type[DataSource]]:
    """Answer the classes of the plugin's data sources."""
    raise NotImplementedError


@hookspec
def heed_reward_signals() -> Sequence[type[RewardSignal]]:
    """Answer the classes of the plugin's reward signals."""
    raise NotImplementedError


@hookspec
def heed_observers() -> Sequence[type[Observer]]:
    """Answer the classes that want to be told of promotions and finished runs."""
    raise NotImplementedError


@hookspec
def heed_redactors() -> Sequence[type[Redactor]]:
    """Answer the classes that take out of texts what must not be learnt."""
    raise NotImplementedError


@hookspec
def heed_rerankers() -> Sequence[type[Reranker]]:
    """Answer the classes that reorder the passages found for a question."""
    raise NotImplementedError
