"""What holds for a plugin class of any kind; needs the class alone."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined

from plugins.conformance.checking import Checks, NotChecked, require

LONGEST_SENTENCE = 200
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SOUNDS_SECRET = re.compile(r"secret|password|passphrase|token|api_?key|credential", re.IGNORECASE)


@dataclass
class PluginClass:
    """A class that the hook `hook` of some module answers."""

    cls: type[Any]
    hook: str

    @property
    def settings_class(self) -> type[Any] | None:
        """The class of its settings; None where it takes none."""
        return getattr(self.cls, "Settings", None)

    def fields(self) -> Mapping[str, Mapping[str, Any]]:
        """Each setting as JSON schema; NotChecked where the class takes none."""
        if self.settings_class is None:
            raise NotChecked("the class takes no settings")
        schema = TypeAdapter(self.settings_class).json_schema()
        found: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
        return found

    def validated(self, given: Mapping[str, Any]) -> Any:
        """The settings as the class gets them; pydantic's ValidationError where one is wrong."""
        if self.settings_class is None:
            return None
        return TypeAdapter(self.settings_class).validate_python(dict(given))

    def made(self, given: Mapping[str, Any]) -> Any:
        """A fresh object of the class, as the host makes it."""
        return self.cls(self.validated(given))


CLASS_CHECKS: Checks[PluginClass] = Checks()


@CLASS_CHECKS.add
def has_a_name(plugin: PluginClass) -> None:
    """`name` is what operators write: small letters, digits and _."""
    name = getattr(plugin.cls, "name", None)
    require(
        isinstance(name, str) and _NAME.fullmatch(name) is not None,
        f"{plugin.cls.__name__}.name is {name!r}; give it small letters, digits and _, "
        "at most 40, beginning with a letter",
    )


@CLASS_CHECKS.add
def says_what_it_is(plugin: PluginClass) -> None:
    """The docstring's first sentence tells an operator what the plugin does."""
    # A dataclass without a docstring is given its signature as one.
    told = inspect.cleandoc(plugin.cls.__doc__ or "")
    first = " ".join(told.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.!?;])\s", first)[0]
    require(
        bool(re.fullmatch(r".+[.!?;]", sentence)) and len(sentence) <= LONGEST_SENTENCE,
        f"{plugin.cls.__name__} has the docstring {sentence[:60]!r}; begin it with a sentence of "
        f"at most {LONGEST_SENTENCE} characters that ends in a full stop",
    )


@CLASS_CHECKS.add
def is_announced_by_its_module(plugin: PluginClass) -> None:
    """The module's hook answers the class, and is marked as a hook."""
    module = sys.modules[plugin.cls.__module__]
    hook = getattr(module, plugin.hook, None)
    require(
        hasattr(hook, "heed_impl"),
        f"{module.__name__} has no function {plugin.hook}() marked with the hookimpl of "
        'pluggy.HookimplMarker("heed")',
    )
    answered = list(hook()) if callable(hook) else []
    require(
        plugin.cls in answered,
        f"{plugin.hook}() answers {answered}; it must list {plugin.cls.__name__}",
    )


@CLASS_CHECKS.add
def is_made_of_settings_alone(plugin: PluginClass) -> None:
    """The class takes one argument, its settings."""
    try:
        inspect.signature(plugin.cls).bind(object())
    except TypeError as error:
        require(
            False, f"{plugin.cls.__name__}(settings) cannot be called: {error}; take one argument"
        )


@CLASS_CHECKS.add
def settings_explain_themselves(plugin: PluginClass) -> None:
    """Every setting has a description, which the form shows."""
    bare = [name for name, field in plugin.fields().items() if not field.get("description")]
    require(
        not bare,
        f"settings without a description: {', '.join(bare)}; "
        'give Field(description="...") or field(metadata={"description": "..."})',
    )


@CLASS_CHECKS.add
def settings_refuse_nonsense(plugin: PluginClass) -> None:
    """A setting refuses a value of no fitting kind, by its name."""
    nonsense = dict.fromkeys(plugin.fields(), object())
    try:
        plugin.validated(nonsense)
        refused: set[str] = set()
    except ValidationError as error:
        refused = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
    taken = sorted(set(nonsense) - refused)
    require(not taken, f"settings that take anything: {', '.join(taken)}; give them a type")


@CLASS_CHECKS.add
def defaults_are_allowed_values(plugin: PluginClass) -> None:
    """A default would be taken if an operator wrote it."""
    plugin.fields()
    for name, default in _defaults(plugin.settings_class).items():
        try:
            plugin.validated({name: default})
        except ValidationError as error:
            wrong = [p["msg"] for p in error.errors() if p["loc"] and p["loc"][0] == name]
            require(not wrong, f"the default of {name}, {default!r}, is refused: {wrong}")


@CLASS_CHECKS.add
def secrets_are_marked(plugin: PluginClass) -> None:
    """A setting that sounds like a secret is a SecretStr, and has no default."""
    for name, field in plugin.fields().items():
        if _SOUNDS_SECRET.search(name) and field.get("type") != "boolean":
            require(
                is_secret(field), f"the setting {name} is no SecretStr, so its value would be shown"
            )
        if is_secret(field):
            require(
                field.get("default") in (None, ""), f"the secret {name} has a default; remove it"
            )


def is_secret(field: Mapping[str, Any]) -> bool:
    """Whether a setting, as JSON schema, is masked; an optional one is a choice of schemas."""
    return field.get("format") == "password" or any(map(is_secret, field.get("anyOf", ())))


def _defaults(settings: type[Any] | None) -> dict[str, Any]:
    fields = getattr(settings, "__pydantic_fields__", None)
    if fields is not None:
        given = {name: field.get_default() for name, field in fields.items()}
        return {name: value for name, value in given.items() if value is not PydanticUndefined}
    found = getattr(settings, "__dataclass_fields__", {})
    return {name: field.default for name, field in found.items() if hasattr(settings, name)}
