"""Items of a data source as plain JSON types, on their way from its process to ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from plugins import contract
from service.errors import PluginFailure

_NAMES: Mapping[type[Any], str] = {cls: kind for kind, cls in contract.KINDS.items()}
_WITH_CURSOR = ("checkpoint", "complete", "partial")
_DEEPEST = 40


def plain_item(item: object) -> dict[str, Any]:
    """An item with its `kind`, in JSON types. One with a field that is none becomes a
    "rejected" under its id; TypeError says what was yielded in place of an item."""
    if isinstance(item, Mapping):
        fields = dict(item)
        kind = fields.pop("kind", None)
        if kind not in contract.KINDS:
            known = ", ".join(contract.KINDS)
            raise TypeError(f"yielded a dict of kind {kind!r:.50}; known are {known}")
    elif type(item) in _NAMES:
        kind = _NAMES[type(item)]
        fields = {name: getattr(item, name) for name in _fields(type(item))}
    else:
        raise TypeError(f"yielded a {type(item).__name__}, which is no contract item")
    if kind in _WITH_CURSOR:
        return {"cursor": _plain_cursor(fields.get("cursor", {})), "kind": kind}
    for name, value in fields.items():
        try:
            fields[name] = value.isoformat() if isinstance(value, date) else plain(value)
        except TypeError as error:
            return _unusable(fields, f"{name} {error}")
    return {**fields, "kind": kind}


def plain(value: object, depth: int = 0) -> Any:
    """The value in JSON types; TypeError for anything else."""
    if depth > _DEEPEST:
        raise TypeError("is nested too deeply")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(one, depth + 1) for one in value]
    raise TypeError(f"is a {type(value).__name__}; it must be text")


def item_of(data: Mapping[str, Any]) -> contract.Item:
    """The item again; one that lacks a field or has an unknown one becomes a Rejected under its
    id. PluginFailure where the message is none."""
    fields = dict(data)
    cls = contract.KINDS.get(str(fields.pop("kind", None)))
    if cls is None:
        raise PluginFailure("the plugin's process sent no item")
    known = _fields(cls)
    wrong = [name for name in fields if name not in known]
    if wrong:
        return _rejected(data, f"has a field {wrong[0]!r:.60}; known are {', '.join(known)}")
    missing = [name for name, needed in known.items() if needed and name not in fields]
    if missing:
        return _rejected(data, f"has no {missing[0]}")
    if isinstance(fields.get("readers"), list):
        fields["readers"] = tuple(fields["readers"])
    if isinstance(fields.get("updated"), str):
        try:
            fields["updated"] = datetime.fromisoformat(fields["updated"])
        except ValueError:
            return _rejected(data, f"updated is {fields['updated']!r:.60}; it must be a datetime")
    return cls(**fields)


def _plain_cursor(cursor: object) -> Any:
    if not isinstance(cursor, Mapping):
        raise TypeError(f"yielded a cursor that is a {type(cursor).__name__}; give a mapping")
    try:
        return plain(cursor)
    except TypeError as error:
        raise TypeError(f"yielded a cursor that is no plain JSON: a value {error}") from error


def _fields(cls: type[Any]) -> dict[str, bool]:
    """The fields of an item's class, and whether each is needed."""
    missing = dataclasses.MISSING
    return {
        field.name: field.default is missing and field.default_factory is missing
        for field in dataclasses.fields(cls)
    }


def _unusable(fields: Mapping[str, Any], reason: str) -> dict[str, Any]:
    return {"kind": "rejected", "where": f"{fields.get('id', '')!s:.200}", "reason": reason}


def _rejected(data: Mapping[str, Any], reason: str) -> contract.Rejected:
    where = data.get("id", data.get("where", ""))
    return contract.Rejected(f"{where!s:.200}", f"{data.get('kind')} {reason}")
