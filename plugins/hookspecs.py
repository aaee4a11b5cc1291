"""The hooks a plugin may implement. Mark yours with `plugins.hookspecs.hookimpl`."""

from __future__ import annotations

import pluggy

from plugins.contract import DataSource, Options, RewardSignal

hookspec = pluggy.HookspecMarker("heed")
hookimpl = pluggy.HookimplMarker("heed")


@hookspec
def heed_data_source(options: Options) -> DataSource:
    """Make the plugin's data source from the operator's options.

    Raise OptionsError where an option is missing or wrong.
    """
    raise NotImplementedError


@hookspec
def heed_reward_signal(options: Options) -> RewardSignal:
    """Make the plugin's reward signal from the operator's options.

    Raise OptionsError where an option is missing or wrong.
    """
    raise NotImplementedError
