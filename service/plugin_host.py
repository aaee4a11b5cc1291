"""Finds the plugins, calls them one at a time, and keeps their faults away from the service.

A plugin is a module named by an entry point of the group `heed`. One that cannot be
loaded is listed with its error and the others go on. Whatever a plugin raises or
answers out of contract becomes a PluginFailure that names plugin, hook and argument.
Storing what a source brings is sync.py's; weighing what a signal reads is the engine's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pluggy
import structlog

from plugins import contract, hookspecs
from service.errors import HeedError, PluginFailure, SettingsError
from service.secrets_of_options import revealed

if TYPE_CHECKING:
    from rlhf_engine import SignalInput
    from service.settings import SignalSettings, SourceSettings

log = structlog.get_logger(__name__)

GROUP = "heed"
"""The entry point group, and the pluggy project name."""

# A plugin that calls sys.exit() must not end the server; KeyboardInterrupt stays ours.
_FAULTS = (Exception, SystemExit)
_ITEMS = (
    contract.Document,
    contract.GoldPair,
    contract.Removal,
    contract.Rejected,
    contract.Complete,
    contract.Partial,
)
_LONGEST_ERROR = 500


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as `heed plugins` lists it. `version` is that of the distribution it came in, ""
    where it came in none. `hooks` are those it implements; `error` says why it is not used."""

    name: str
    version: str
    hooks: tuple[str, ...]
    error: str | None = None


class PluginHost:
    """Holds the plugins of this process. `load()` finds the installed ones."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._infos: list[PluginInfo] = []

    @classmethod
    def load(cls) -> PluginHost:
        """Load every plugin of the entry point group `heed`; raises nothing for a bad one."""
        host = cls()
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
            host._load_entry(entry)
        return host

    def register(self, name: str, module: object, version: str = "") -> PluginInfo:
        """Add a module or object with hook implementations under `name`.

        Raises PluginFailure, and leaves the plugin out, where a hook has an unknown name or
        argument, none is implemented, or the name is taken.
        """
        if self._manager.get_plugin(name) is not None:
            raise PluginFailure(f"plugin {name}: another plugin has this name; uninstall one")
        try:
            self._manager.register(module, name)
            self._manager.check_pending()
        except _FAULTS as error:
            self._forget(name)
            raise PluginFailure(f"plugin {name} cannot be used: {_told(error)}") from error
        hooks = self._hooks(module)
        if not hooks:
            self._forget(name)
            raise PluginFailure(
                f"plugin {name} implements no hook; known are {', '.join(_known_hooks())}, "
                "marked with plugins.hookspecs.hookimpl"
            )
        info = PluginInfo(name, version, hooks)
        self._infos.append(info)
        return info

    def plugins(self) -> list[PluginInfo]:
        """Every plugin found, by name, the broken ones with their error."""
        return sorted(self._infos, key=lambda info: info.name)

    def options_of(self, plugin: str) -> tuple[contract.OptionField, ...] | None:
        """The options that a plugin says it takes; None where it says nothing, or is unknown.

        PluginFailure where it fails, or answers anything else.
        """
        others = [other for name, other in self._manager.list_name_plugin() if name != plugin]
        caller = self._manager.subset_hook_caller("heed_options", remove_plugins=others)
        try:
            told = caller()
            fields = tuple(told[0]) if told else None
        except _FAULTS as error:
            raise PluginFailure(f"plugin {plugin}, heed_options(): {_told(error)}") from error
        if fields and not all(isinstance(field, contract.OptionField) for field in fields):
            raise PluginFailure(f"plugin {plugin}, heed_options() answered no OptionField")
        return fields

    def data_source(self, settings: SourceSettings) -> HostedSource:
        """Make the data source that the settings ask for; nothing is read yet.

        Raises SettingsError for a plugin that is unknown, broken or no data source, and for
        wrong options; PluginFailure where the plugin itself fails.
        """
        place = f"sources.{settings.name}"
        made = self._make("heed_data_source", place, settings.plugin, settings.options)
        _require_method(made, "items", settings.plugin, "heed_data_source")
        return HostedSource(settings.name, settings.plugin, made)

    def reward_signals(self, settings: Sequence[SignalSettings]) -> list[HostedSignal]:
        """Make the reward signals that the settings ask for, in their order; raises as above."""
        return [self._reward_signal(entry) for entry in settings]

    def _reward_signal(self, settings: SignalSettings) -> HostedSignal:
        place = f"signals.{settings.name}"
        made = self._make("heed_reward_signal", place, settings.plugin, settings.options)
        _require_method(made, "read", settings.plugin, "heed_reward_signal")
        return HostedSignal(settings.name, settings.weight, settings.plugin, made)

    def _make(self, hook: str, place: str, plugin: str, options: Mapping[str, Any]) -> Any:
        self._require_hook(hook, place, plugin)
        given = revealed(options, self.options_of(plugin) or (), place)
        others = [other for name, other in self._manager.list_name_plugin() if name != plugin]
        caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
        try:
            # A copy, so that no plugin changes the settings of another.
            made = caller(options=MappingProxyType(copy.deepcopy(given)))
        except contract.OptionsError as error:
            raise SettingsError(f"setting {place} (plugin {plugin}): {error}") from error
        except _FAULTS as error:
            raise PluginFailure(
                f"plugin {plugin}, {hook}, argument options of {place}: {_told(error)}"
            ) from error
        return made[0] if made else None

    def _require_hook(self, hook: str, place: str, plugin: str) -> None:
        able = [info.name for info in self.plugins() if hook in info.hooks and not info.error]
        if plugin in able:
            return
        broken = next((info.error for info in self._infos if info.name == plugin), None)
        why = f"cannot be used: {broken}" if broken else f"is no installed plugin with {hook}"
        raise SettingsError(
            f"setting {place}.plugin: {plugin!r} {why}; "
            f"plugins that can be named here: {', '.join(able) or 'none'}"
        )

    def _load_entry(self, entry: EntryPoint) -> None:
        version = entry.dist.version if entry.dist else ""
        try:
            self.register(entry.name, entry.load(), version)
        except _FAULTS as error:
            log.warning(
                "plugin_left_out",
                plugin=entry.name,
                error=type(error).__name__,
                next_step="heed plugins shows why; mend the plugin's package or uninstall it",
            )
            self._infos.append(PluginInfo(entry.name, version, (), _told(error)))

    def _hooks(self, module: object) -> tuple[str, ...]:
        callers = self._manager.get_hookcallers(module) or []
        return tuple(sorted(caller.name for caller in callers))

    def _forget(self, name: str) -> None:
        if self._manager.get_plugin(name) is not None:
            self._manager.unregister(name=name)


class HostedSource:
    """A plugin's data source whose faults are PluginFailures; satisfies contract.DataSource."""

    def __init__(self, name: str, plugin: str, source: contract.DataSource) -> None:
        self.name = name
        self.plugin = plugin
        self._source = source

    def items(self, cursor: contract.Cursor) -> Iterator[contract.Item]:
        """Yield the plugin's items; the last is Complete or Partial.

        Raises PluginFailure where the source cannot be read, yields anything else than an
        item, goes on after its end, or stops without one. What came before is then not to
        be kept. The fields of the items are not checked here.
        """
        ended = False
        for item in self._read(cursor):
            if ended:
                raise self._failure(f"yielded a {type(item).__name__} after Complete or Partial")
            if not isinstance(item, _ITEMS):
                raise self._failure(f"yielded a {type(item).__name__}, which is no contract item")
            ended = isinstance(item, contract.Complete | contract.Partial)
            yield item
        if not ended:
            raise self._failure("ended without Complete or Partial, so it may have stopped early")

    def _read(self, cursor: contract.Cursor) -> Iterator[contract.Item]:
        try:
            iterator = iter(self._source.items(copy.deepcopy(dict(cursor))))
            while True:
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                yield item  # type: ignore[misc]
        except _FAULTS as error:
            raise self._failure(_told(error)) from error

    def _failure(self, told: str) -> PluginFailure:
        return PluginFailure(f"plugin {self.plugin}, items(cursor) of source {self.name}: {told}")


class HostedSignal:
    """A plugin's reward signal as the engine wants it: `name`, `weight`, and batches.

    `weight` in [0, 1] is how much of the reward a full reading makes.
    """

    def __init__(
        self, name: str, weight: float, plugin: str, signal: contract.RewardSignal
    ) -> None:
        self.name = name
        self.weight = weight
        self.plugin = plugin
        self._signal = signal

    def read_batch(self, batch: Sequence[SignalInput]) -> list[float | None]:
        """One reading in [-1, 1], or None where the plugin abstains, for each input in order.

        Raises PluginFailure where the plugin raises, or answers anything else than None or a
        finite number in [-1, 1].
        """
        return [self._read(position, given) for position, given in enumerate(batch)]

    def _read(self, position: int, given: SignalInput) -> float | None:
        try:
            reading: object = self._signal.read(_answer(given))
        except _FAULTS as error:
            raise self._failure(position, _told(error)) from error
        if reading is None:
            return None
        if isinstance(reading, bool) or not isinstance(reading, Real):
            raise self._failure(
                position, f"answered a {type(reading).__name__}; a number or None is needed"
            )
        value = float(reading)
        if not math.isfinite(value) or not -1.0 <= value <= 1.0:
            raise self._failure(position, f"answered {value}; a reading is in [-1, 1]")
        return value

    def _failure(self, position: int, told: str) -> PluginFailure:
        return PluginFailure(
            f"plugin {self.plugin}, read(answer) of signal {self.name}, "
            f"answer {position + 1} of the batch: {told}"
        )


def _answer(given: SignalInput) -> contract.Answer:
    passages = (
        contract.ShownPassage(passage.title, passage.text) for passage in given.prompt.passages
    )
    return contract.Answer(
        question=given.prompt.question,
        text=given.answer,
        passages=tuple(passages),
        gold=given.gold,
    )


def _require_method(made: object, method: str, plugin: str, hook: str) -> None:
    if not callable(getattr(made, method, None)):
        raise PluginFailure(
            f"plugin {plugin}, {hook}(options) answered a {type(made).__name__} "
            f"without a method {method}; see plugins/contract.py"
        )


def _known_hooks() -> list[str]:
    return sorted(name for name in vars(hookspecs) if name.startswith("heed_"))


def _told(error: BaseException) -> str:
    """The fault in one short line; texts meant for operators stand without a class name."""
    text = " ".join(str(error).split())
    meant_for_operators = isinstance(error, HeedError | contract.PluginError) and text
    told = text if meant_for_operators else f"{type(error).__name__}: {text}".rstrip(": ")
    return told if len(told) <= _LONGEST_ERROR else told[:_LONGEST_ERROR] + "…"
