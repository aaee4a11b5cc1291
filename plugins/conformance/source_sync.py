"""What holds from sync to sync: cursors, checkpoints, and going on after a kill."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plugins import contract
from plugins.conformance.checking import Checks, NotChecked, require
from plugins.conformance.process_state import open_things, require_no_more
from plugins.conformance.source_reading import Key, SourceSubject, end, kept

SYNC_CHECKS: Checks[SourceSubject] = Checks()


@SYNC_CHECKS.add
def given_cursor_is_not_changed(source: SourceSubject) -> None:
    """items(cursor) leaves the mapping it is given as it is."""
    cursor: dict[str, Any] = dict(end(source.read()).cursor)
    before = copy.deepcopy(cursor)
    for _ in source.source().items(cursor):
        pass
    require(cursor == before, f"the cursor {before!r} was changed to {cursor!r}; copy it")


@SYNC_CHECKS.add
def own_cursor_is_taken_back(source: SourceSubject) -> None:
    """Every cursor of the source, read back from JSON, can be gone on from to an end."""
    for cursor in _cursors(source.read()):
        end(source.read(cursor))


@SYNC_CHECKS.add
def next_sync_of_the_same_removes_nothing(source: SourceSubject) -> None:
    """A sync after the last loses nothing while the place is unchanged."""
    first = source.read()
    again = source.read(_stored(end(first).cursor))
    removed = [item.id for item in again if isinstance(item, contract.Removal)]
    require(not removed, f"removed {removed[:3]}, which still stand in the place")
    if isinstance(end(again), contract.Complete):
        lost = sorted(set(kept(first)) - set(kept(again)))
        require(not lost, f"Complete without {lost[:3]}, so they would be removed; say Partial")


@SYNC_CHECKS.add
def next_sync_of_the_same_changes_nothing(source: SourceSubject) -> None:
    """What comes again in the next sync, comes as it was."""
    first = source.read()
    again = kept(source.read(_stored(end(first).cursor)))
    before = kept(first)
    changed = [key for key, item in again.items() if before.get(key) != item]
    require(not changed, f"new or changed although the place did not: {changed[:3]}")


@SYNC_CHECKS.add
def checkpoints_move_on(source: SourceSubject) -> None:
    """No two checkpoints have the same cursor while items came between them."""
    seen: list[Mapping[str, Any]] = []
    for part, checkpoint in _pages(source.read()):
        if checkpoint is not None and kept(part):
            cursor = dict(checkpoint.cursor)
            require(cursor not in seen, f"the cursor {cursor!r} stands at two places; move it on")
            seen.append(cursor)


@SYNC_CHECKS.add
def checkpoints_leave_less_and_less(source: SourceSubject) -> None:
    """The later the checkpoint, the less there is left to read from it."""
    left = [len(kept(source.read(c))) for c in _checkpoints(source)]
    require(
        left == sorted(left, reverse=True),
        f"from one checkpoint to the next, {left} items are left; going on would never end",
    )


@SYNC_CHECKS.add
def going_on_misses_nothing(source: SourceSubject) -> None:
    """From each checkpoint on, everything comes that came after it the first time."""
    for position, cursor, items in _resumptions(source):
        missed = _ids(items[position:]) - _ids(source.read(cursor))
        require(not missed, f"after the checkpoint {cursor!r}, missing: {sorted(missed)[:3]}")


@SYNC_CHECKS.add
def going_on_repeats_at_most_a_page(source: SourceSubject) -> None:
    """From each checkpoint on, nothing comes again but what one page holds."""
    for position, cursor, items in _resumptions(source):
        *earlier, _last_page, _after = _pages(items[:position])
        done = set().union(*(_ids(part) for part, _ in earlier))
        again = sorted(done & _ids(source.read(cursor)))
        require(not again, f"the checkpoint {cursor!r} brings {again[:3]} again; go on behind it")


@SYNC_CHECKS.add
def page_read_twice_is_the_same(source: SourceSubject) -> None:
    """From one checkpoint on, the same comes each time: a page may be asked for twice."""
    for cursor in _checkpoints(source):
        first, second = source.read(cursor), source.read(cursor)
        require(first == second, f"two readings from the checkpoint {cursor!r} differ")


@SYNC_CHECKS.add
def going_on_ends_as_the_first_would(source: SourceSubject) -> None:
    """A sync that goes on from a checkpoint ends as the whole one: Complete, or Partial."""
    whole = type(end(source.read()))
    for cursor in _checkpoints(source):
        ended = type(end(source.read(cursor)))
        require(
            ended is whole,
            f"from the checkpoint {cursor!r} the sync ends {ended.__name__}, else {whole.__name__}",
        )


@SYNC_CHECKS.add
def killed_at_any_item_nothing_is_lost(source: SourceSubject) -> None:
    """Killed after any item, and gone on from the last checkpoint, all items are brought."""
    items = source.read()
    count = len(items)
    for stop in sorted({1, count // 4, count // 2, 3 * count // 4, count - 1} - {0}):
        first = source.read_first(stop)
        pages = [(part, mark) for part, mark in _pages(first) if mark is not None]
        cursor = _stored(pages[-1][1].cursor) if pages and pages[-1][1] else {}
        got = set().union(*(_ids(part) for part, _ in pages), _ids(source.read(cursor)))
        missed = sorted(_ids(items) - got)
        require(not missed, f"killed after item {stop} and gone on, missing: {missed[:3]}")


@SYNC_CHECKS.add
def broken_off_leaves_nothing_open(source: SourceSubject) -> None:
    """Broken off half-way three times, no file, socket or thread stays open."""
    half = max(1, len(source.read()) // 2)
    source.read_first(half)
    before = open_things()
    for _ in range(3):
        source.read_first(half)
    require_no_more(before)


@SYNC_CHECKS.add
def can_be_broken_off(source: SourceSubject) -> None:
    """items() answers an iterator that ends quietly when it is closed before its end."""
    iterator = source.raw()
    next(iterator, None)
    close = getattr(iterator, "close", None)
    try:
        if close is not None:
            close()
    except RuntimeError as error:
        require(
            False, f"closing raised {error}; do not yield, or swallow GeneratorExit, on closing"
        )


def _stored(cursor: Mapping[str, Any]) -> dict[str, Any]:
    """The cursor as the host hands it back."""
    found: dict[str, Any] = json.loads(json.dumps(dict(cursor)))
    return found


def _cursors(items: Sequence[contract.Item]) -> list[dict[str, Any]]:
    marks = (contract.Checkpoint, contract.Complete, contract.Partial)
    return [_stored(item.cursor) for item in items if isinstance(item, marks)]


def _checkpoints(source: SourceSubject) -> list[dict[str, Any]]:
    return [cursor for _, cursor, _ in _resumptions(source)]


def _resumptions(
    source: SourceSubject,
) -> list[tuple[int, dict[str, Any], list[contract.Item]]]:
    """For each checkpoint: how many items came up to it, its cursor, and all the items."""
    items = source.read()
    found = [
        (position + 1, _stored(item.cursor), items)
        for position, item in enumerate(items)
        if isinstance(item, contract.Checkpoint)
    ]
    if not found:
        raise NotChecked("the source yields no Checkpoint in this place; a small one needs none")
    return found


def _pages(
    items: Sequence[contract.Item],
) -> Iterator[tuple[list[contract.Item], contract.Checkpoint | None]]:
    """The items up to each checkpoint, with it; then those after the last, with None."""
    part: list[contract.Item] = []
    for item in items:
        if isinstance(item, contract.Checkpoint):
            yield part, item
            part = []
        else:
            part.append(item)
    yield part, None


def _ids(items: Sequence[contract.Item]) -> set[Key]:
    return set(kept(items))
