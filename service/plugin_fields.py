"""The settings that a plugin class takes, as a form asks for them, and the check of those given.

`Settings` of the class is a pydantic model or a dataclass; its JSON schema makes the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from plugins.contract import OptionsError

OptionKind = Literal["text", "path", "number", "decimal", "switch", "secret", "choice", "lines"]

_PATHS = ("path", "file-path", "directory-path")
_KINDS: Mapping[str, OptionKind] = {
    "boolean": "switch",
    "integer": "number",
    "number": "decimal",
    "array": "lines",
}


@dataclass(frozen=True, slots=True)
class OptionField:
    """An option as a form asks for it.

    A "path" names a file or folder on the server, a "number" is a whole number, a "decimal" any,
    a "switch" true or false, a "choice" one of `choices`, "lines" a list of texts. A "secret" is
    written as a reference (secrets_of_options.py). `default` is None where there is none, and
    where the option is `required`.
    """

    name: str
    help: str
    kind: OptionKind = "text"
    default: Any = None
    required: bool = True
    choices: tuple[str, ...] = ()


def fields_of(settings: type[Any] | None) -> tuple[OptionField, ...]:
    """The fields of a `Settings` class, in its order; none for None."""
    if settings is None:
        return ()
    schema = TypeAdapter(settings).json_schema()
    needed = schema.get("required", ())
    shared = schema.get("$defs", {})
    properties: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
    return tuple(_field(name, told, name in needed, shared) for name, told in properties.items())


def checked(settings: type[Any] | None, options: Mapping[str, Any]) -> Any:
    """The settings as the class gets them; OptionsError names the first wrong option.

    The value of a secret is not repeated.
    """
    fields = {field.name: field for field in fields_of(settings)}
    for name in options:
        if name not in fields:
            known = ", ".join(fields) or "no options"
            raise OptionsError(f"option {name!r} is unknown; it knows: {known}")
    if settings is None:
        return None
    given = {name: _expanded(fields[name], value) for name, value in options.items()}
    try:
        return TypeAdapter(settings).validate_python(given)
    except ValidationError as error:
        raise OptionsError(_explained(error, fields)) from None


def _expanded(field: OptionField, value: Any) -> Any:
    if field.kind == "path" and isinstance(value, str):
        return str(Path(value).expanduser())
    return value


def _explained(error: ValidationError, fields: Mapping[str, OptionField]) -> str:
    problem = error.errors()[0]
    name = str(problem["loc"][0]) if problem["loc"] else ""
    said = problem["msg"].removeprefix("Value error, ")
    if name not in fields:
        return f"the options do not fit: {said}"
    if problem["type"] == "missing":
        return f"option {name} is missing: {fields[name].help or said}"
    shown = "" if fields[name].kind == "secret" else f" is {problem['input']!r:.200}"
    return f"option {name}{shown}: {said}"


def _field(
    name: str, told: Mapping[str, Any], required: bool, shared: Mapping[str, Any]
) -> OptionField:
    schema = _plain(told, shared)
    choices = tuple(str(value) for value in schema.get("enum", ()))
    if "const" in schema:
        choices = (str(schema["const"]),)
    return OptionField(
        name,
        str(told.get("description") or schema.get("description") or ""),
        "choice" if choices else _kind(schema),
        None if required else told.get("default"),
        required,
        choices,
    )


def _plain(schema: Mapping[str, Any], shared: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema itself, where it refers to a shared one or may also be null."""
    if "$ref" in schema:
        return _plain(shared[schema["$ref"].rsplit("/", 1)[-1]], shared)
    some = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if some:
        # A path may also be given as a text; what says most about it comes first.
        kinds = [_plain(one, shared) for one in some]
        return next((kind for kind in kinds if kind.get("format")), kinds[0])
    return schema


def _kind(schema: Mapping[str, Any]) -> OptionKind:
    if schema.get("format") == "password":
        return "secret"
    if schema.get("format") in _PATHS:
        return "path"
    return _KINDS.get(str(schema.get("type")), "text")
