"""Reads a data source in this process, as the host would: from a cursor, up to its end."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from plugins import contract
from plugins.conformance.checking import Broken, NotChecked, require
from plugins.conformance.place import Place
from plugins.conformance.plugin_class import PluginClass, is_secret

KEPT = (contract.Document, contract.GoldPair, contract.Question)
ENDS = (contract.Complete, contract.Partial)

SHORTEST_ADVICE = 20
"""Characters of an error that says what happened and what to do."""

Key = tuple[str, str]
"""Kind and id: a document and a gold pair may have the same id."""


def as_item(given: object) -> contract.Item:
    """What a source yielded as an item of the contract; Broken where it is none."""
    if isinstance(given, Mapping):
        fields = {key: _typed(key, value) for key, value in given.items() if key != "kind"}
        kind = contract.KINDS.get(str(given.get("kind")))
        if kind is None:
            raise Broken(
                f"yielded {dict(given)!r:.200}; its kind must be one of {', '.join(contract.KINDS)}"
            )
        try:
            made: contract.Item = kind(**fields)
        except TypeError as error:
            raise Broken(f"yielded {dict(given)!r:.200}: {error}") from error
        return made
    if not isinstance(given, contract.Item):
        raise Broken(f"yielded a {type(given).__name__}; yield items of plugins.contract, or dicts")
    return given


def _typed(name: str, value: Any) -> Any:
    """A field of a dict as the contract types it: plain JSON has no datetime and no tuple."""
    if name == "updated" and isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError as error:
            raise Broken(f"updated is {value!r}; write it as ISO 8601") from error
    return tuple(value) if name == "readers" and isinstance(value, list) else value


def kept(items: Sequence[contract.Item]) -> dict[Key, Any]:
    """The documents, gold pairs and questions among items, by kind and id."""
    return {(type(item).__name__, item.id): item for item in items if isinstance(item, KEPT)}


def with_id(items: Sequence[contract.Item], identity: str) -> list[Any]:
    """The documents, gold pairs and questions with this id."""
    return [item for item in items if isinstance(item, KEPT) and item.id == identity]


def end(items: Sequence[contract.Item]) -> contract.Complete | contract.Partial:
    """The end of a sync; Broken where it has none."""
    if items and isinstance(items[-1], contract.Complete | contract.Partial):
        return items[-1]
    raise Broken("ended without Complete or Partial, so the host takes it for one that broke off")


def stored(items: Sequence[contract.Item]) -> dict[str, Any]:
    """The cursor that these items end with, as the host hands it back."""
    cursor = getattr(items[-1], "cursor", {})
    found: dict[str, Any] = json.loads(json.dumps(dict(cursor)))
    return found


def require_advice(error: Exception | None) -> None:
    """Broken where an error's text is too short to say what to do."""
    text = str(error)
    require(
        len(text) >= SHORTEST_ADVICE and " " in text,
        f"the error says only {text!r}; say what happened and what to do next",
    )


@dataclass
class SourceSubject(PluginClass):
    """A source class with the place it reads."""

    place: Place | None = None
    _settings: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def there(self) -> Place:
        """The place; NotChecked where none was given."""
        if self.place is None:
            raise NotChecked("give settings that read something")
        return self.place

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that read the place, which is filled at the first look."""
        if self._settings is None:
            self._settings = copy.deepcopy(dict(self.there.settings()))
        return self._settings

    def source(self) -> Any:
        """A fresh object, as after a restart."""
        return self.made(self.settings)

    def raw(self, cursor: Mapping[str, Any] | None = None) -> Iterator[object]:
        """Whatever a fresh object yields, as it stands."""
        return iter(self.source().items({} if cursor is None else dict(cursor)))

    def read(self, cursor: Mapping[str, Any] | None = None) -> list[contract.Item]:
        """Every item that a fresh object yields from a cursor on."""
        return [as_item(given) for given in self.raw(cursor)]

    def read_first(self, count: int) -> list[contract.Item]:
        """The first `count` items; then the source is dropped, as when the host is killed."""
        found: list[contract.Item] = []
        iterator = self.raw()
        try:
            while len(found) < count:
                found.append(as_item(next(iterator)))
        except StopIteration:
            pass
        finally:
            getattr(iterator, "close", int)()
        return found

    def first_error(self, within_s: float) -> Exception | None:
        """What a whole sync raises, if anything; Broken where it takes longer than `within_s`."""
        began = time.monotonic()
        raised = None
        try:
            self.read()
        except Broken:
            raise
        except Exception as error:  # noqa: BLE001 - the check judges whatever it is
            raised = error
        took = time.monotonic() - began
        if took > within_s:
            raise Broken(f"it took {took:.0f} s to say so; leave waiting to the host")
        return raised

    def secrets(self) -> list[str]:
        """The values of the secret settings; NotChecked where the class has none."""
        names = [name for name, found in self.fields().items() if is_secret(found)]
        values = [str(self.settings[name]) for name in names if self.settings.get(name)]
        if not values:
            raise NotChecked("the class has no secret setting, or the place gives it no value")
        return values
