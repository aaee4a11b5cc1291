"""For each check of a source, a source that breaks just that promise."""

from __future__ import annotations

import dataclasses
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from plugins.contract import (
    Checkpoint,
    Complete,
    Document,
    Partial,
    Rejected,
    Removal,
    RetryLater,
    SecretError,
    SourceError,
)
from tests.plugins.conformance.wiki import TOKEN, Wiki

Items = list[Any]
Change = Callable[[Items, Mapping[str, Any]], Items]

_numbers = itertools.count()
opened: list[Any] = []
"""Files that a broken source left open."""


def source(**members: Any) -> type[Wiki]:
    """A Wiki with other members."""
    return type("Broken", (Wiki,), {"__doc__": Wiki.__doc__, **members})


def yielding(change: Change) -> type[Wiki]:
    """A Wiki that yields something else than the real one would."""

    def items(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
        yield from change(list(Wiki.items(self, cursor)), cursor)

    return source(items=items)


def each_document(**values: Any) -> type[Wiki]:
    """A Wiki whose documents have other fields; a function is called for each."""

    def changed(items: Items, cursor: Mapping[str, Any]) -> Items:
        return [_replaced(i, values) if isinstance(i, Document) else i for i in items]

    return yielding(changed)


def _replaced(item: Any, values: Mapping[str, Any]) -> Any:
    found = {name: v(item) if callable(v) else v for name, v in values.items()}
    return dataclasses.replace(item, **found)


def _resumed(change: Callable[[Items], Items]) -> type[Wiki]:
    """Another thing where a sync goes on from a checkpoint."""
    return yielding(lambda items, cursor: change(items) if "after" in cursor else items)


def _second(change: Callable[[Items], Items]) -> type[Wiki]:
    """Another thing in the sync after a whole one."""
    return yielding(lambda items, cursor: change(items) if "synced" in cursor else items)


def _settings(**fields: Any) -> type[Wiki]:
    """Other settings: each field as (type, pydantic's FieldInfo)."""
    annotations = {name: kind for name, (kind, _) in fields.items()}
    values = {name: info for name, (_, info) in fields.items()}
    made = type("Settings", (Wiki.Settings,), {"__annotations__": annotations, **values})
    return source(Settings=made)


def _needs_two(self: Wiki, settings: Any, more: Any) -> None:
    self.settings = settings


def _slow(self: Wiki, settings: Any) -> None:
    time.sleep(1.05)
    self.settings = settings


def _once(self: Any, cursor: Mapping[str, Any]) -> Iterator[Any]:
    before = self.__dict__.setdefault("before", set())
    for item in Wiki.items(self, cursor):
        if not hasattr(item, "id") or item.id not in before:
            yield item
        before.add(getattr(item, "id", None))


def _one_dict(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
    found: dict[str, Any] = {}
    for number in range(3):
        found.update(kind="document", id=f"e{number}", title="A title", text="A text")
        yield found
    yield {"kind": "complete"}


def _grown_settings(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
    yield from Wiki.items(self, cursor)
    self.settings.page += 1


def _changed_process(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
    socket.setdefaulttimeout(12.5)
    os.environ["HEED_SECRET_BROKEN"] = "set by the plugin"
    yield from Wiki.items(self, cursor)


def _changed_cursor(self: Wiki, cursor: Any) -> Iterator[Any]:
    yield from Wiki.items(self, cursor)
    cursor["seen"] = True


def _untaken_cursor(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
    if "synced" in cursor:
        return
    yield from Wiki.items(self, cursor)


def _shuffled(items: Items, cursor: Mapping[str, Any]) -> Items:
    return items if next(_numbers) % 2 else [*items[-2::-1], items[-1]]


def _less_and_more(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
    yield from Wiki.items(self, {} if cursor.get("after", "") > "e3" else cursor)


def _all_again(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
    yield from Wiki.items(self, {})


def _checkpoint_first(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
    after = cursor.get("after", "")
    while page := self.page_after(after):
        after = page[-1]["id"]
        yield Checkpoint({"after": after})
        yield from map(self.entry, page)
    yield Complete({"synced": True})


def _left_open(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
    opened.append(self.settings.path.open())
    yield from Wiki.items(self, cursor)


def _unstoppable(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
    try:
        yield from Wiki.items(self, cursor)
    finally:
        yield Complete()


def _fails_when_empty(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
    if not self.page_after(""):
        yield Document("none", "No entry", "There is no entry.")
    yield from Wiki.items(self, cursor)


def _nothing_when_away(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
    try:
        yield from Wiki.items(self, cursor)
    except SourceError:
        yield Complete()


def _stays_away(self: Any, cursor: Mapping[str, Any]) -> Iterator[Any]:
    away = self.settings.path.with_suffix(".seen")
    if away.exists():
        yield Complete()
        return
    try:
        yield from Wiki.items(self, cursor)
    except SourceError:
        away.touch()
        raise


def _raising(kind: type[Exception], other: Exception) -> type[Wiki]:
    def items(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
        try:
            yield from Wiki.items(self, cursor)
        except kind:
            raise other from None

    return source(items=items)


def _printing(self: Wiki, cursor: Mapping[str, Any]) -> Iterator[Any]:
    print("reading")
    yield from Wiki.items(self, cursor)


def _bare_of_id(item: Document) -> str:
    return f"{item.id}-{item.text}"


BROKEN: Mapping[str, type[Wiki]] = {
    "has_a_name": source(name="My Wiki"),
    "says_what_it_is": source(__doc__="wiki"),
    "is_announced_by_its_module": source(),
    "is_made_of_settings_alone": source(__init__=_needs_two),
    "settings_explain_themselves": _settings(page=(int, Field(2))),
    "settings_refuse_nonsense": _settings(page=(Any, Field(2, description="Entries a page."))),
    "defaults_are_allowed_values": _settings(page=(int, Field(0, ge=1, description="Entries."))),
    "secrets_are_marked": _settings(token=(str, Field(description="The token."))),
    "is_made_without_reading": source(__init__=_slow),
    "yields_items_of_the_contract": yielding(lambda items, _: [*items[:2], "e2", *items[2:]]),
    "brings_something": yielding(lambda items, _: [items[0], items[-1]]),
    "ends_once_and_last": yielding(lambda items, _: [*items, *items]),
    "fields_are_texts": each_document(text="  "),
    "texts_can_be_stored": each_document(text="before\0after"),
    "ids_are_used_once": yielding(lambda items, _: [items[0], *items]),
    "ids_are_stable": each_document(id=lambda item: f"{item.id}-{next(_numbers)}"),
    "contents_are_stable": each_document(text=lambda _: f"Reading {next(_numbers)}"),
    "order_is_stable": yielding(_shuffled),
    "object_can_be_read_twice": source(items=_once),
    "yielded_items_stay_as_they_are": source(items=_one_dict),
    "updated_has_a_time_zone": each_document(updated=datetime(2026, 3, 1, 12)),
    "servers_time_zone_does_not_matter": each_document(
        updated=lambda _: datetime.fromtimestamp(1e9).replace(tzinfo=UTC)
    ),
    "readers_are_named_as_agreed": each_document(readers=("all",)),
    "urls_can_be_opened": each_document(url="wiki/e1"),
    "cursors_are_plain_json": yielding(lambda items, _: [*items[:-1], Complete({"ids": {1, 2}})]),
    "secrets_stay_unseen": each_document(title=f"Seen with {TOKEN}"),
    "settings_stay_as_they_are": source(items=_grown_settings),
    "prints_nothing": source(items=_printing),
    "process_is_left_alone": source(items=_changed_process),
    "given_cursor_is_not_changed": source(items=_changed_cursor),
    "own_cursor_is_taken_back": source(items=_untaken_cursor),
    "next_sync_of_the_same_removes_nothing": _second(lambda items: [Removal("e0"), *items]),
    "next_sync_of_the_same_changes_nothing": _second(
        lambda items: [dataclasses.replace(items[0], title="Another"), *items[1:]]
    ),
    "checkpoints_move_on": yielding(
        lambda items, _: [Checkpoint({}) if isinstance(i, Checkpoint) else i for i in items]
    ),
    "checkpoints_leave_less_and_less": source(items=_less_and_more),
    "going_on_misses_nothing": _resumed(lambda items: items[1:]),
    "going_on_repeats_at_most_a_page": source(items=_all_again),
    "page_read_twice_is_the_same": _resumed(
        lambda items: [Rejected(f"line {next(_numbers)}", "is not known"), *items]
    ),
    "going_on_ends_as_the_first_would": _resumed(lambda items: [*items[:-1], Partial()]),
    "killed_at_any_item_nothing_is_lost": source(items=_checkpoint_first),
    "broken_off_leaves_nothing_open": source(items=_left_open),
    "can_be_broken_off": source(items=_unstoppable),
    "wrong_settings_are_refused": _settings(page=(int, Field(2, description="Entries."))),
    "added_item_comes": _second(lambda _: [Partial()]),
    "every_writing_comes_as_it_is": each_document(
        text=lambda item: item.text.encode("ascii", "ignore").decode()
    ),
    "changed_item_comes_with_its_id": each_document(id=_bare_of_id),
    "removed_item_goes": _second(lambda items: [*items[:-1], Partial()]),
    "removing_takes_nothing_else": _second(lambda items: items[-1:]),
    "empty_place_is_told": source(items=_fails_when_empty),
    "unusable_record_is_rejected_alone": yielding(
        lambda items, _: [item for item in items if not isinstance(item, Rejected)]
    ),
    "rights_are_carried": each_document(readers=("everyone",)),
    "unreadable_place_is_a_source_error": source(items=_nothing_when_away),
    "place_that_comes_back_is_read": source(items=_stays_away),
    "throttled_source_asks_to_retry": _raising(RetryLater, SourceError("wait a little, please")),
    "throttled_half_way_goes_on": source(items=_checkpoint_first),
    "expired_secret_is_told": _raising(SecretError, SecretError(f"the token {TOKEN} has expired")),
    "connection_test_answers": source(check=lambda _: ""),
    "connection_test_tells_trouble": source(check=lambda _: "All is well."),
}
