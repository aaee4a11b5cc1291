"""What holds for the items of one sync."""

from __future__ import annotations

import copy
import io
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta

from plugins import contract
from plugins.conformance.checking import Checks, require
from plugins.conformance.process_state import left_alone, time_zone
from plugins.conformance.source_reading import ENDS, SourceSubject, as_item, end, kept

LONGEST = {
    "id": 1_000,
    "title": 500,
    "question": 2_000,
    "answer": 20_000,
    "text": 5_000_000,
    "author": 200,
    "url": 4_000,
}
"""Characters a field may have; the host rejects an item with more."""

_READER = re.compile(r"everyone|group:\S.*|person:\S.*")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
_NEEDED = ("id", "title", "text", "question", "answer", "where", "reason")

ITEM_CHECKS: Checks[SourceSubject] = Checks()


@ITEM_CHECKS.add
def is_made_without_reading(source: SourceSubject) -> None:
    """Making the object reads nothing: a form makes one to look at the settings."""
    settings = source.settings
    began = time.monotonic()
    source.made(settings)
    took = time.monotonic() - began
    require(took < 1, f"making the object took {took:.1f} s; read in items(), not in __init__")


@ITEM_CHECKS.add
def yields_items_of_the_contract(source: SourceSubject) -> None:
    """Everything that is yielded is an item of the contract, or a dict that makes one."""
    for given in source.raw():
        as_item(given)


@ITEM_CHECKS.add
def brings_something(source: SourceSubject) -> None:
    """The place of the test holds at least two items; fewer would prove little."""
    count = len(kept(source.read()))
    require(count >= 2, f"{count} documents, gold pairs or questions came; put two in the place")


@ITEM_CHECKS.add
def ends_once_and_last(source: SourceSubject) -> None:
    """A sync ends with one Complete or Partial, and nothing follows it."""
    items = source.read()
    end(items)
    early = [position for position, item in enumerate(items[:-1]) if isinstance(item, ENDS)]
    require(not early, f"item {early[0] + 1 if early else 0} ended the sync, yet more came")


@ITEM_CHECKS.add
def fields_are_texts(source: SourceSubject) -> None:
    """Texts are str, none is blank, and none is longer than the host takes."""
    for item in source.read():
        for name in (*_NEEDED, "author", "url"):
            value = getattr(item, name, None)
            if value is None and (name not in _NEEDED or not hasattr(item, name)):
                continue
            where = f"{type(item).__name__}.{name}"
            require(isinstance(value, str), f"{where} is a {type(value).__name__}; give text")
            require(bool(str(value).strip()), f"{where} is blank; yield Rejected instead")
            most = LONGEST.get(name, 5_000_000)
            require(len(str(value)) <= most, f"{where} has over {most} characters")


@ITEM_CHECKS.add
def texts_can_be_stored(source: SourceSubject) -> None:
    """No text holds control characters or halves of surrogate pairs, which no database takes."""
    for item in source.read():
        for name, value in _texts(item):
            found = _CONTROL.search(value)
            require(
                found is None,
                f"{type(item).__name__}.{name} holds {found.group() if found else ''!r}; "
                "decode as UTF-8, and remove control characters",
            )


@ITEM_CHECKS.add
def ids_are_used_once(source: SourceSubject) -> None:
    """Within a sync no two items of a kind share an id."""
    counts = Counter(
        (type(item).__name__, item.id) for item in source.read() if hasattr(item, "id")
    )
    twice = [key for key, count in counts.items() if count > 1]
    require(not twice, f"used more than once: {twice[:3]}")


@ITEM_CHECKS.add
def ids_are_stable(source: SourceSubject) -> None:
    """A second sync gives every item the id it had; else all is removed and added anew."""
    first, second = kept(source.read()), kept(source.read())
    new = sorted(set(second) - set(first))
    require(set(first) == set(second), f"in a second sync, ids differ: {new[:3]} are new")


@ITEM_CHECKS.add
def contents_are_stable(source: SourceSubject) -> None:
    """A second sync of an unchanged place brings the same contents; else all is indexed anew."""
    first, second = kept(source.read()), kept(source.read())
    changed = [key for key in first if key in second and first[key] != second[key]]
    require(not changed, f"changed although the place did not: {changed[:3]}")


@ITEM_CHECKS.add
def order_is_stable(source: SourceSubject) -> None:
    """Items come in the same order each time, on which a checkpoint relies."""
    require(
        list(kept(source.read())) == list(kept(source.read())),
        "the order of the items differs between two syncs; sort what you list",
    )


@ITEM_CHECKS.add
def object_can_be_read_twice(source: SourceSubject) -> None:
    """One object can be read again: items() keeps nothing from an earlier call."""
    made = source.source()
    first = [as_item(given) for given in made.items({})]
    second = [as_item(given) for given in made.items({})]
    require(
        kept(first) == kept(second),
        f"the same object gave {len(kept(first))} items, then {len(kept(second))}",
    )


@ITEM_CHECKS.add
def yielded_items_stay_as_they_are(source: SourceSubject) -> None:
    """What was yielded is not changed afterwards: one dict is not used for all items."""
    given: list[object] = []
    then: list[object] = []
    for one in source.raw():
        given.append(one)
        then.append(copy.deepcopy(one))
    changed = [
        number for number, pair in enumerate(zip(given, then, strict=True)) if pair[0] != pair[1]
    ]
    require(not changed, f"{len(changed)} items changed after they were yielded; make each anew")


@ITEM_CHECKS.add
def updated_has_a_time_zone(source: SourceSubject) -> None:
    """`updated` is a datetime with a time zone, and does not lie in the future."""
    latest = datetime.now(UTC) + timedelta(days=1)
    for item in source.read():
        moment = getattr(item, "updated", None)
        if moment is None:
            continue
        aware = isinstance(moment, datetime) and moment.tzinfo is not None
        require(aware, f"{_told(item)}: updated is {moment!r}; give a datetime with a time zone")
        require(moment <= latest, f"{_told(item)}: updated is {moment}, which is to come")


@ITEM_CHECKS.add
def servers_time_zone_does_not_matter(source: SourceSubject) -> None:
    """The items are the same wherever the server stands."""
    with time_zone("UTC"):
        here = kept(source.read())
    with time_zone("Asia/Kolkata"):
        there = kept(source.read())
    changed = [key for key, item in here.items() if there.get(key) != item]
    require(not changed, f"differ in another time zone: {changed[:3]}; work in UTC")


@ITEM_CHECKS.add
def readers_are_named_as_agreed(source: SourceSubject) -> None:
    """Readers are "everyone", "group:NAME" or "person:NAME", and there is at least one."""
    for item in source.read():
        readers = getattr(item, "readers", ("everyone",))
        right = isinstance(readers, tuple | list) and bool(readers)
        right = right and all(isinstance(r, str) and _READER.fullmatch(r) for r in readers)
        require(
            right,
            f"{_told(item)}: readers are {readers!r}; give a tuple of "
            '"everyone", "group:NAME" and "person:NAME"',
        )


@ITEM_CHECKS.add
def urls_can_be_opened(source: SourceSubject) -> None:
    """A url is whole, with http or https: it is the link under an answer."""
    for item in source.read():
        url = getattr(item, "url", None)
        if url is not None:
            whole = re.fullmatch(r"https?://[^\s/]+\S*", url) is not None
            require(whole, f"{_told(item)}: url is {url!r}; give http(s)://..., or None")


@ITEM_CHECKS.add
def cursors_are_plain_json(source: SourceSubject) -> None:
    """Every cursor survives being written as JSON and read again."""
    for item in source.read():
        if not isinstance(item, contract.Checkpoint | contract.Complete | contract.Partial):
            continue
        try:
            again = json.loads(json.dumps(dict(item.cursor), allow_nan=False))
        except (TypeError, ValueError) as error:
            require(False, f"{type(item).__name__}.cursor is {item.cursor!r}: {error}")
        require(again == item.cursor, f"the cursor {item.cursor!r} comes back as {again!r}")


@ITEM_CHECKS.add
def secrets_stay_unseen(source: SourceSubject) -> None:
    """No secret stands in an item, a cursor, the object's repr, or what is printed."""
    secrets = source.secrets()
    printed = io.StringIO()
    made = source.source()
    with redirect_stdout(printed):
        items = [as_item(given) for given in made.items({})]
    seen = {
        "an item": repr(items),
        "repr(source)": repr(made),
        "what it prints": printed.getvalue(),
    }
    for where, text in seen.items():
        shown = any(secret in text for secret in secrets)
        require(not shown, f"a secret is shown in {where}; keep it as SecretStr until it is sent")


@ITEM_CHECKS.add
def settings_stay_as_they_are(source: SourceSubject) -> None:
    """Reading changes nothing in the settings."""
    settings = source.validated(source.settings)
    before = copy.deepcopy(settings)
    for _ in source.cls(settings).items({}):
        pass
    require(settings == before, f"the settings changed from {before!r} to {settings!r}")


@ITEM_CHECKS.add
def prints_nothing(source: SourceSubject) -> None:
    """Nothing is printed; what an operator needs goes into Rejected or SourceError."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        source.read()
    require(not printed.getvalue(), f"printed {printed.getvalue()[:80]!r}; remove the print")


@ITEM_CHECKS.add
def process_is_left_alone(source: SourceSubject) -> None:
    """The working folder, environment and other state of the process are as they were."""
    source.settings  # noqa: B018 - the place may be filled only now
    with left_alone():
        source.read()


def _texts(item: contract.Item) -> Iterator[tuple[str, str]]:
    for name in (*_NEEDED, "author", "url"):
        value = getattr(item, name, None)
        if isinstance(value, str):
            yield name, value


def _told(item: contract.Item) -> str:
    return f"{type(item).__name__} {getattr(item, 'id', '')}"
