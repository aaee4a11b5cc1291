"""Holds the plugins, makes of them what the settings ask for, and keeps their faults apart.

Each source, signal, observer, redactor and reranker runs in a process of its own
(plugin_process.py). Whatever a plugin raises, answers out of contract or never answers becomes
a PluginFailure that names plugin, method and setting; plugin_hosted.py has what the host makes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.errors import PluginFailure, SettingsError
from service.plugin_calls import Calls, Fault, PluginClass
from service.plugin_fields import OptionField
from service.plugin_finding import Found, find
from service.plugin_hosted import (
    Called,
    Hosted,
    HostedObserver,
    HostedRedactor,
    HostedReranker,
    HostedSignal,
    HostedSource,
    OnCall,
    Runner,
)
from service.plugin_limits import PluginLimits
from service.plugin_process import PluginProcess
from service.secrets_of_options import revealed, secrets_in

if TYPE_CHECKING:
    from service.settings import PluginUse, Settings, SignalSettings, SourceSettings

SOURCES, SIGNALS = "heed_data_sources", "heed_reward_signals"
OBSERVERS, REDACTORS, RERANKERS = "heed_observers", "heed_redactors", "heed_rerankers"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as `heed plugins list` shows it. `version` is that of the distribution it came
    in, "" where it came in none; `error` says why it is not used."""

    name: str
    version: str
    classes: tuple[PluginClass, ...] = ()
    error: str | None = None
    target: str = ""
    built_in: bool = False

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hooks it implements."""
        return tuple(sorted({found.hook for found in self.classes}))


class PluginHost:
    """The plugins that can be used. `load()` finds the installed ones."""

    def __init__(
        self,
        found: Sequence[Found] = (),
        limits: PluginLimits | None = None,
        on_call: OnCall | None = None,
        is_off: Callable[[str], str | None] | None = None,
    ) -> None:
        """`on_call` is told of each call, `is_off` answers why a plugin is switched off."""
        self._found = {one.name: one for one in found if one.error is None}
        self._doubled = [one for one in found if one.error is not None]
        self._limits = limits or PluginLimits()
        self._on_call = on_call
        self._is_off = is_off
        self._infos: dict[str, PluginInfo] = {}
        self._registered: dict[str, object] = {}
        self._lock = threading.RLock()
        self.flush: Callable[[], None] = lambda: None
        """Waits until whoever is told of calls has kept them all."""

    @classmethod
    def load(
        cls,
        settings: Settings | None = None,
        on_call: OnCall | None = None,
        is_off: Callable[[str], str | None] | None = None,
    ) -> PluginHost:
        """Find every plugin, importing none; those of the plugin folder too, given the settings.

        `on_call` is told of each call, `is_off` answers why a plugin is switched off.
        """
        folder, wanted, limits = None, None, PluginLimits()
        if settings is not None:
            folder, wanted = settings.plugins_folder, settings.plugins_loaded
            limits = settings.plugin_limits
        return cls(find(folder, wanted), limits, on_call, is_off)

    def register(self, name: str, module: object, version: str = "") -> PluginInfo:
        """Add a module or object with hooks, to be called in this very process; for tests.

        Raises PluginFailure where it breaks the contract, or the name is taken.
        """
        if name in self._found or name in self._registered:
            raise PluginFailure(f"plugin {name}: another plugin has this name; uninstall one")
        try:
            classes = tuple(Calls(module).classes())
        except Fault as error:
            raise PluginFailure(f"plugin {name} cannot be used: {error.told}") from error
        self._registered[name] = module
        self._infos[name] = PluginInfo(name, version, classes)
        return self._infos[name]

    def plugins(self) -> list[PluginInfo]:
        """Every plugin found, by name, the broken ones with their error. Imports those not yet
        known, in processes."""
        with self._lock:
            unknown = [one for name, one in self._found.items() if name not in self._infos]
            ours = [one for one in unknown if one.built_in]
            for group in (ours, *([one] for one in unknown if not one.built_in)):
                self._look_at(group)
            doubled = [_info(one, error=one.error) for one in self._doubled]
            return sorted([*self._infos.values(), *doubled], key=lambda info: info.name)

    def named(self, hook: str) -> list[PluginClass]:
        """The classes that can be named as the `plugin` of this kind, by name."""
        return sorted(
            (one for info in self.plugins() if not info.error for one in info.classes
             if one.hook == hook),
            key=lambda one: one.name,
        )  # fmt: skip

    def options_of(self, plugin: str, hook: str = SOURCES) -> tuple[OptionField, ...] | None:
        """The options that a class takes; None where there is no such class."""
        for info in self._candidates(plugin):
            for found in info.classes:
                if (found.hook, found.name) == (hook, plugin):
                    return found.fields
        return None

    def data_source(self, settings: SourceSettings) -> HostedSource:
        """Make the data source that the settings ask for; nothing is read yet.

        Raises SettingsError for a plugin that is unknown, broken or no data source, and for
        wrong options; PluginFailure where the plugin itself fails, or is switched off.
        """
        place = f"sources.{settings.name}"
        return HostedSource(self._made(SOURCES, place, settings))

    def reward_signals(self, settings: Sequence[SignalSettings]) -> list[HostedSignal]:
        """Make the reward signals that the settings ask for, in their order; raises as above."""
        return [
            HostedSignal(self._made(SIGNALS, f"signals.{entry.name}", entry), entry.weight)
            for entry in settings
        ]

    def observer(self, settings: PluginUse) -> HostedObserver:
        """Make an observer; raises as data_source does, and so do the next two."""
        return HostedObserver(self._made(OBSERVERS, f"observers.{settings.name}", settings))

    def redactor(self, settings: PluginUse) -> HostedRedactor:
        """Make a redactor."""
        return HostedRedactor(self._made(REDACTORS, f"redactors.{settings.name}", settings))

    def reranker(self, settings: PluginUse) -> HostedReranker:
        """Make a reranker."""
        made = self._made(RERANKERS, f"rerankers.{settings.name}", settings)
        return HostedReranker(made, self._limits.rerank_s)

    def _made(self, hook: str, place: str, settings: PluginUse) -> Hosted:
        info, found = self._class(hook, place, settings.plugin)
        reason = self._is_off(info.name) if self._is_off else None
        if reason:
            raise PluginFailure(f"plugin {info.name} is switched off: {reason}")
        options = revealed(settings.options, found.fields, place)
        hosted = Hosted(
            place,
            settings.name,
            info.name,
            self._runner(info.name),
            self._on_call,
            secrets_in(options, found.fields),
        )
        hosted.make(hook, found.name, options)
        return hosted

    def _class(self, hook: str, place: str, plugin: str) -> tuple[PluginInfo, PluginClass]:
        for info in self._candidates(plugin):
            for found in info.classes:
                if (found.hook, found.name) == (hook, plugin):
                    return info, found
        for info in self.plugins():
            if info.name == plugin and info.error:
                raise PluginFailure(f"plugin {plugin} of {place} cannot be used: {info.error}")
        able = ", ".join(found.name for found in self.named(hook)) or "none"
        raise SettingsError(
            f"setting {place}.plugin: {plugin!r} is no installed plugin with {hook}; "
            f"plugins that can be named here: {able}"
        )

    def _candidates(self, plugin: str) -> Iterator[PluginInfo]:
        """The plugin of this name first, which spares importing the others."""
        with self._lock:
            if plugin in self._found and plugin not in self._infos:
                self._look_at([self._found[plugin]])
            if plugin in self._infos:
                yield self._infos[plugin]
        yield from (info for info in self.plugins() if not info.error)

    def _look_at(self, some: Sequence[Found]) -> None:
        """Import plugins in one process; a new one after each that fails."""
        process: PluginProcess | None = None
        for found in some:
            process = process or PluginProcess(found.target, self._limits)
            try:
                classes = tuple(process.classes_of(found.target))
                self._infos[found.name] = _info(found, classes)
            except Fault as error:
                process.close()
                process = None
                self._infos[found.name] = _info(found, error=error.told)
                if self._on_call:
                    self._on_call(Called(found.name, "import", 0.0, 0, error.told, True))
        if process is not None:
            process.close()

    def _runner(self, name: str) -> Runner:
        if name in self._registered:
            return _Here(self._registered[name])
        return PluginProcess(self._found[name].target, self._limits)


class _Here:
    """A plugin that is called in this process."""

    peak_mb = 0

    def __init__(self, plugin: object) -> None:
        self._calls = Calls(plugin)

    def make(self, hook: str, name: str, options: Mapping[str, Any]) -> None:
        self._calls.make(hook, name, options)

    def call(self, method: str, given: Any, limit_s: float | None = None) -> Any:  # noqa: ARG002
        return self._calls.call(method, given)

    def items(self, cursor: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        return self._calls.items(cursor)

    def close(self) -> None:
        """Nothing to end."""


def _info(
    found: Found, classes: tuple[PluginClass, ...] = (), error: str | None = None
) -> PluginInfo:
    return PluginInfo(found.name, found.version, classes, error, found.target, found.built_in)
