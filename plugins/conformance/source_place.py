"""What holds when the place changes; needs the place's own means to change it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from plugins import contract
from plugins.conformance.checking import Broken, Checks, NotChecked, require
from plugins.conformance.source_reading import (
    SourceSubject,
    end,
    kept,
    require_advice,
    stored,
    with_id,
)

WRITINGS = (
    "Grüße, naïve façade",
    "日本語の文書",
    "שלום עולם مرحبا",
    "e\u0301 combining",
    "👩🏽‍💻 emoji",
    "Ǆ ß ﬁ",
)
"""Phrases that a source brings as they are; normalising to NFC is allowed."""

PLACE_CHECKS: Checks[SourceSubject] = Checks()


@PLACE_CHECKS.add
def wrong_settings_are_refused(source: SourceSubject) -> None:
    """Settings that cannot work are refused before anything is read."""
    if not source.there.wrong:
        raise NotChecked("give the place `wrong`, a list of settings that must be refused")
    for wrong in source.there.wrong:
        try:
            source.made({**source.settings, **wrong})
        except (ValidationError, ValueError, contract.PluginError):
            continue
        raise Broken(f"the settings {dict(wrong)!r} were taken; refuse them in Settings")


@PLACE_CHECKS.add
def added_item_comes(source: SourceSubject) -> None:
    """An item added after a sync comes with the next."""
    cursor = _synced(source)
    identity = source.there.add("Parking is behind the house, on the left.")
    brought = with_id(source.read(cursor), identity)
    require(bool(brought), f"the item {identity!r} was added, but did not come in the next sync")


@PLACE_CHECKS.add
def every_writing_comes_as_it_is(source: SourceSubject) -> None:
    """Accents, other scripts, emoji and combining characters arrive as they were written."""
    source.settings  # noqa: B018 - fills the place
    for writing in WRITINGS:
        identity = source.there.add(f"It says {writing} here.")
        found = " ".join(_content(item) for item in with_id(source.read(), identity))
        same = unicodedata.normalize("NFC", writing) in unicodedata.normalize("NFC", found)
        require(same, f"{writing!r} came as {found[:120]!r}; read the place as UTF-8")


@PLACE_CHECKS.add
def changed_item_comes_with_its_id(source: SourceSubject) -> None:
    """An item changed after a sync comes with the next, with the id it had."""
    before = kept(source.read())
    cursor = _synced(source)
    identity = source.there.change()
    brought = with_id(source.read(cursor), identity)
    require(bool(brought), f"the item {identity!r} changed, but did not come in the next sync")
    known = [item for item in before.values() if item.id == identity]
    require(bool(known), f"the id {identity!r} is new; an item keeps its id when it changes")
    require(brought != known, f"the item {identity!r} changed, but came as it was")


@PLACE_CHECKS.add
def removed_item_goes(source: SourceSubject) -> None:
    """An item removed after a sync is a Removal in the next, or missing from a Complete one."""
    cursor = _synced(source)
    identity = source.there.remove()
    items = source.read(cursor)
    require(not with_id(items, identity), f"the item {identity!r} was removed, but comes still")
    told = isinstance(end(items), contract.Complete) or identity in _removed(items)
    require(told, f"{identity!r} was removed; yield Removal({identity!r}), or end with Complete")


@PLACE_CHECKS.add
def removing_takes_nothing_else(source: SourceSubject) -> None:
    """When one item is removed, all others stay."""
    first = source.read()
    identity = source.there.remove()
    items = source.read(stored(first))
    others = {key for key in kept(first) if key[1] != identity}
    gone = {key for key in others if key[1] in _removed(items)}
    if isinstance(end(items), contract.Complete):
        gone |= others - set(kept(items))
    # A page and the gold pairs on it go together.
    gone = {key for key in gone if not key[1].startswith(identity)}
    require(not gone, f"only {identity!r} was removed, but gone are {sorted(gone)[:3]}")


@PLACE_CHECKS.add
def empty_place_is_told(source: SourceSubject) -> None:
    """An emptied place gives a sync without items, or a SourceError; nothing else."""
    cursor = _synced(source)
    source.there.empty()
    try:
        items = source.read(cursor)
    except (contract.SourceError, OSError) as error:
        require_advice(error)
        return
    end(items)
    require(not kept(items), f"the place is empty, but {sorted(kept(items))[:3]} came")


@PLACE_CHECKS.add
def unusable_record_is_rejected_alone(source: SourceSubject) -> None:
    """A record that cannot be used is Rejected with where and why; the others come."""
    before = set(kept(source.read()))
    source.there.spoil()
    items = source.read()
    end(items)
    rejected = [item for item in items if isinstance(item, contract.Rejected)]
    require(
        bool(rejected), "no Rejected came for the unusable record; say where it stands, and why"
    )
    lost = before - set(kept(items))
    require(len(lost) < len(before), "one unusable record took all the others with it")
    require(
        all(item.reason.strip() and item.where.strip() for item in rejected),
        "a Rejected lacks its where or its reason",
    )


@PLACE_CHECKS.add
def rights_are_carried(source: SourceSubject) -> None:
    """Readers of the place are the item's readers, and never wider."""
    source.settings  # noqa: B018 - fills the place
    identity, readers = source.there.restrict()
    found = with_id(source.read(), identity)
    require(bool(found), f"the restricted item {identity!r} did not come at all")
    for item in found:
        given = tuple(getattr(item, "readers", ("everyone",)))
        require(set(given) == set(readers), f"{identity!r} is for {given}; it should be {readers}")


def _synced(source: SourceSubject) -> dict[str, Any]:
    return stored(source.read())


def _removed(items: Sequence[contract.Item]) -> set[str]:
    return {item.id for item in items if isinstance(item, contract.Removal)}


def _content(item: Any) -> str:
    names = ("title", "text", "question", "answer")
    return " ".join(str(getattr(item, name, "")) for name in names)
