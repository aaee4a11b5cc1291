"""What holds when the place changes, refuses, or goes away; needs the place's own means."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from plugins import contract
from plugins.conformance.checking import Broken, Checks, NotChecked, require
from plugins.conformance.source_reading import SourceSubject, as_item, end, kept, with_id

AT_ONCE_S = 20
"""A source says so this soon when it cannot read, rather than waiting itself."""
TEST_S = 10
WAIT_S = 37
SHORTEST_ADVICE = 20
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
    import unicodedata

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
    items = source.read(_stored(first))
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
        _require_advice(error)
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


@PLACE_CHECKS.add
def unreadable_place_is_a_source_error(source: SourceSubject) -> None:
    """A place that cannot be read raises SourceError that says what to do, and no Complete."""
    _synced(source)
    source.there.take_away()
    error = source.first_error(AT_ONCE_S)
    require(error is not None, "the sync ended as if all were well; everything would be removed")
    # A plugin without the contract's classes says it with an OSError of its own words.
    fitting = isinstance(error, contract.SourceError) or type(error) is OSError
    require(fitting, f"raised {error!r:.200}; raise SourceError, or RetryLater")
    _require_advice(error)


@PLACE_CHECKS.add
def place_that_comes_back_is_read(source: SourceSubject) -> None:
    """After the place was away, the next sync brings everything."""
    before = kept(source.read())
    source.there.take_away()
    source.first_error(AT_ONCE_S)
    source.there.recover()
    require(kept(source.read()) == before, "after the place came back, the items are others")


@PLACE_CHECKS.add
def throttled_source_asks_to_retry(source: SourceSubject) -> None:
    """Where the place asks to wait (429), RetryLater is raised at once, with the seconds."""
    source.settings  # noqa: B018 - fills the place
    source.there.throttle(WAIT_S)
    error = source.first_error(AT_ONCE_S)
    require(isinstance(error, contract.RetryLater), f"raised {error!r:.200}; raise RetryLater")
    seconds = getattr(error, "seconds", None)
    right = isinstance(seconds, int | float) and abs(seconds - WAIT_S) <= 2
    require(right, f"the place asks to wait {WAIT_S} s; RetryLater says {seconds}")


@PLACE_CHECKS.add
def throttled_half_way_goes_on(source: SourceSubject) -> None:
    """Throttled half-way, going on from the last checkpoint brings all that was missing."""
    whole = kept(source.read())
    iterator = source.raw()
    before: list[contract.Item] = []
    try:
        for given in iterator:
            before.append(as_item(given))
            if isinstance(before[-1], contract.Checkpoint):
                break
        source.there.throttle(WAIT_S)
        before += [as_item(given) for given in iterator]
    except contract.RetryLater:
        pass
    source.there.recover()
    committed = _up_to_the_last_checkpoint(before)
    cursor = _stored(committed) if committed else {}
    got = {**kept(committed), **kept(source.read(cursor))}
    missed = sorted(set(whole) - set(got))
    require(not missed, f"after waiting and going on, missing: {missed[:3]}")


@PLACE_CHECKS.add
def expired_secret_is_told(source: SourceSubject) -> None:
    """A secret that is taken no more raises SecretError, at once and without showing it."""
    secrets = source.secrets()
    source.there.expire()
    error = source.first_error(AT_ONCE_S)
    require(isinstance(error, contract.SecretError), f"raised {error!r:.200}; raise SecretError")
    _require_advice(error)
    chain, shown = error, ""
    while chain is not None:
        shown += str(chain)
        chain = chain.__cause__ if isinstance(chain.__cause__, Exception) else None
    require(not any(secret in shown for secret in secrets), "the error shows the secret")


@PLACE_CHECKS.add
def connection_test_answers(source: SourceSubject) -> None:
    """check() answers a sentence within seconds."""
    began = time.monotonic()
    told = _checked(source)
    took = time.monotonic() - began
    require(
        isinstance(told, str) and bool(told.strip()), f"check() answered {told!r}; give a sentence"
    )
    require(took <= TEST_S, f"check() took {took:.0f} s; look at one thing only")


@PLACE_CHECKS.add
def connection_test_tells_trouble(source: SourceSubject) -> None:
    """check() raises SourceError where the place cannot be read."""
    _checked(source)
    source.there.take_away()
    try:
        told = _checked(source)
    except (contract.SourceError, OSError) as error:
        _require_advice(error)
        return
    raise Broken(f"check() answered {told!r} although the place cannot be read")


def _checked(source: SourceSubject) -> Any:
    made = source.source()
    check = getattr(made, "check", None)
    if not callable(check):
        raise NotChecked("the class has no method check(); give it one to test the connection")
    return check()


def _synced(source: SourceSubject) -> dict[str, Any]:
    return _stored(source.read())


def _stored(items: Sequence[contract.Item]) -> dict[str, Any]:
    cursor = getattr(items[-1], "cursor", {})
    found: dict[str, Any] = json.loads(json.dumps(dict(cursor)))
    return found


def _up_to_the_last_checkpoint(items: list[contract.Item]) -> list[contract.Item]:
    if items and isinstance(items[-1], contract.Complete | contract.Partial):
        return items
    marks = [n for n, item in enumerate(items) if isinstance(item, contract.Checkpoint)]
    return items[: marks[-1] + 1] if marks else []


def _removed(items: Sequence[contract.Item]) -> set[str]:
    return {item.id for item in items if isinstance(item, contract.Removal)}


def _content(item: Any) -> str:
    names = ("title", "text", "question", "answer")
    return " ".join(str(getattr(item, name, "")) for name in names)


def _require_advice(error: Exception | None) -> None:
    text = str(error)
    require(
        len(text) >= SHORTEST_ADVICE and " " in text,
        f"the error says only {text!r}; say what happened and what to do next",
    )
