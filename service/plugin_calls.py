"""Calls one plugin: finds its classes, makes one with its settings, and asks it.

Everything goes in and out as plain JSON types, so that the same code serves a plugin in a
process of its own (plugin_child.py) and one that a test registers in ours.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import pluggy

from plugins import contract, hookspecs
from service.plugin_fields import OptionField, checked, fields_of
from service.plugin_items import plain_item

PROJECT = "heed"
"""The entry point group, and the pluggy project name."""
HOOKS: Mapping[str, str] = {
    "heed_data_sources": "items",
    "heed_reward_signals": "read",
    "heed_observers": "",
    "heed_redactors": "redact",
    "heed_rerankers": "rerank",
}
"""Each hook, and the method that its classes must have; an observer may have either of two."""
FAULTS = (Exception, SystemExit)
"""What a plugin may raise; sys.exit() must not end the caller, KeyboardInterrupt stays ours."""

_LONGEST_TOLD = 500
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")

FaultKind = Literal["options", "retry", "secret", "source", "memory", "fault"]


class Fault(Exception):  # noqa: N818 - what happened to somebody else's code
    """What a plugin did wrong, in one short line. `seconds` is how long it asked to wait."""

    def __init__(self, told: str, kind: FaultKind = "fault", seconds: float | None = None) -> None:
        super().__init__(told)
        self.told = told
        self.kind = kind
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class PluginClass:
    """A class that a plugin brings. `hook` names its kind, `help` says what it does."""

    hook: str
    name: str
    help: str
    fields: tuple[OptionField, ...]


def fault_of(error: BaseException) -> Fault:
    """What to tell of an error; texts meant for operators stand without a class name."""
    if isinstance(error, Fault):
        return error
    text = _storable(" ".join(str(error).split()))
    meant = isinstance(error, contract.PluginError) and text
    told = text if meant else f"{type(error).__name__}: {text}".rstrip(": ")
    if len(told) > _LONGEST_TOLD:
        told = told[:_LONGEST_TOLD] + "…"
    match error:
        case MemoryError():
            return Fault(told, "memory")
        case contract.OptionsError():
            return Fault(told, "options")
        case contract.RetryLater():
            return Fault(told, "retry", _seconds(error.seconds))
        case contract.SecretError():
            return Fault(told, "secret")
        case contract.SourceError():
            return Fault(told, "source")
    return Fault(told)


def load(target: str) -> object:
    """The plugin at "module", "module:attribute" or "file:PATH"; raises what its import raises."""
    if target.startswith("file:"):
        path = Path(target.removeprefix("file:"))
        name = f"heed_plugin_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        # pydantic and dataclasses look up the names of annotations there.
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
    module_name, _, attributes = target.partition(":")
    found: object = importlib.import_module(module_name)
    for attribute in filter(None, attributes.split(".")):
        found = getattr(found, attribute)
    return found


class Calls:
    """One plugin, and the object that was made of one of its classes."""

    def __init__(self, plugin: object) -> None:
        """Ask the plugin's hooks for its classes; Fault where they break the contract."""
        self._classes = dict(_classes(plugin))
        self._made: Any = None

    def classes(self) -> list[PluginClass]:
        """What the plugin brings."""
        return [
            PluginClass(hook, name, _help(cls), _fields(cls))
            for (hook, name), cls in self._classes.items()
        ]

    def make(self, hook: str, name: str, options: Mapping[str, Any]) -> None:
        """Make the class `name` with these options; Fault of kind "options" for wrong ones."""
        cls = self._classes.get((hook, name))
        if cls is None:
            raise Fault(f"has no class named {name!r} at {hook}()")
        try:
            self._made = cls(checked(getattr(cls, "Settings", None), copy.deepcopy(dict(options))))
        except FAULTS as error:
            raise fault_of(error) from error

    def items(self, cursor: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """The source's items from there on, with their kind; Fault as it fails."""
        try:
            iterator = iter(self._made.items(copy.deepcopy(dict(cursor))))
            while True:
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                try:
                    given = plain_item(item)
                except TypeError as error:
                    raise Fault(str(error)) from error
                yield given
        except FAULTS as error:
            raise fault_of(error) from error

    def call(self, method: str, given: Any) -> Any:
        """Call `method` with what plain JSON `given` says, and answer plain JSON."""
        calls: Mapping[str, Callable[[Any], Any]] = {
            "check": self._check,
            "read": self._read,
            "redact": self._redact,
            "rerank": self._rerank,
            "promoted": self._tell,
            "run_finished": self._tell,
        }
        try:
            return calls[method]({**given, "method": method})
        except FAULTS as error:
            raise fault_of(error) from error

    def _check(self, given: Any) -> str:  # noqa: ARG002 - called as the others are
        check = getattr(self._made, "check", None)
        return str(check())[:_LONGEST_TOLD] if check is not None else ""

    def _read(self, given: Any) -> list[float | None]:
        answers = [_answer(data) for data in given["answers"]]
        together = getattr(self._made, "read_batch", None)
        if together is None:
            return [self._one(position, answer) for position, answer in enumerate(answers)]
        readings = list(together(answers))
        if len(readings) != len(answers):
            raise Fault(f"answered {len(readings)} readings for {len(answers)} answers")
        return [_reading(reading, position) for position, reading in enumerate(readings)]

    def _one(self, position: int, answer: contract.Answer) -> float | None:
        try:
            reading = self._made.read(answer)
        except FAULTS as error:
            fault = fault_of(error)
            where = f"answer {position + 1} of the batch: "
            raise Fault(where + fault.told, fault.kind, fault.seconds) from error
        return _reading(reading, position)

    def _redact(self, given: Any) -> list[str]:
        redacted = [self._made.redact(text) for text in given["texts"]]
        for text in redacted:
            if not isinstance(text, str):
                raise Fault(f"answered a {type(text).__name__}; a text is needed")
        return redacted

    def _rerank(self, given: Any) -> list[float]:
        passages = [contract.ShownPassage(**passage) for passage in given["passages"]]
        scores = list(self._made.rerank(given["question"], passages))
        if len(scores) != len(passages):
            raise Fault(f"answered {len(scores)} scores for {len(passages)} passages")
        for score in scores:
            if isinstance(score, bool) or not isinstance(score, Real) or not math.isfinite(score):
                raise Fault(f"answered the score {score!r:.50}; a finite number is needed")
        return [float(score) for score in scores]

    def _tell(self, given: Any) -> None:
        hear = getattr(self._made, given["method"], None)
        event = contract.Promotion if given["method"] == "promoted" else contract.FinishedRun
        if hear is not None:
            hear(event(**given["event"]))


def _classes(plugin: object) -> Iterator[tuple[tuple[str, str], type[Any]]]:
    hooks = _hooks(plugin)
    if not hooks:
        raise Fault(
            f"implements no hook; known are {', '.join(HOOKS)}, marked with "
            "plugins.hookspecs.hookimpl"
        )
    seen = set()
    for hook in hooks:
        for cls in _answered(plugin, hook):
            name = _checked_name(hook, cls)
            if (hook, name) in seen:
                raise Fault(f"{hook}() lists two classes named {name!r}; names must differ")
            seen.add((hook, name))
            yield (hook, name), cls


def _hooks(plugin: object) -> list[str]:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, "plugin")
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise fault_of(error) from error
    return sorted(caller.name for caller in manager.get_hookcallers(plugin) or ())


def _answered(plugin: object, hook: str) -> list[Any]:
    try:
        return list(getattr(plugin, hook)())
    except FAULTS as error:
        raise Fault(f"{hook}(): {fault_of(error).told}") from error


def _checked_name(hook: str, cls: Any) -> str:
    if not inspect.isclass(cls):
        raise Fault(f"{hook}() lists a {type(cls).__name__}; it lists classes")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Fault(
            f"{hook}(): {cls.__name__}.name is {name!r:.80}; give small letters, digits and _"
        )
    if not any(callable(getattr(cls, method, None)) for method in _methods(hook)):
        wanted = " or ".join(_methods(hook))
        raise Fault(f"{hook}(): {cls.__name__} has no method {wanted}; see plugins/contract.py")
    return name


def _methods(hook: str) -> tuple[str, ...]:
    if hook == "heed_observers":
        return ("promoted", "run_finished")
    return ("read", "read_batch") if hook == "heed_reward_signals" else (HOOKS[hook],)


def _help(cls: type[Any]) -> str:
    """The first sentence of the docstring."""
    told = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
    return _storable(re.split(r"(?<=[.!?])\s", told)[0][:_LONGEST_TOLD])


def _storable(text: str) -> str:
    """The text without what no database keeps."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


def _fields(cls: type[Any]) -> tuple[OptionField, ...]:
    try:
        return fields_of(getattr(cls, "Settings", None))
    except FAULTS as error:
        raise Fault(f"{cls.__name__}.Settings: {fault_of(error).told}") from error


def _answer(data: Mapping[str, Any]) -> contract.Answer:
    return contract.Answer(
        data["question"],
        data["text"],
        tuple(contract.ShownPassage(**passage) for passage in data["passages"]),
        data["gold"],
        tuple(contract.Feedback(**said) for said in data["feedback"]),
    )


def _reading(reading: object, position: int) -> float | None:
    where = f"answer {position + 1} of the batch: answered"
    if reading is None:
        return None
    if isinstance(reading, bool) or not isinstance(reading, Real):
        raise Fault(f"{where} a {type(reading).__name__}; a number or None is needed")
    value = float(reading)
    if not math.isfinite(value) or not -1.0 <= value <= 1.0:
        raise Fault(f"{where} {value}; a reading is in [-1, 1]")
    return value


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
