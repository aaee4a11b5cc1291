"""Pages of a long file, read from where the last page ended, so that no page costs more than it
shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from service.errors import InvalidInputError, NotFoundError

LONGEST_LOG = 64_000
"""Bytes of a log that are read at once."""

# Colours and the like, and what would break a line of JSON or a page.
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class LinePage:
    """Rows of a JSON-lines file; `next` is where the next page begins, None after the last."""

    rows: list[Any]
    next: int | None


@dataclass(frozen=True, slots=True)
class LogPart:
    """Whole lines of a log, and the byte after them. `begins_at` is where they begin."""

    text: str
    begins_at: int
    ends_at: int


def read_rows(path: Path, after: int, limit: int, decode: Callable[[bytes], Any]) -> LinePage:
    """At most `limit` rows from byte `after` on; NotFoundError where the file is gone,
    InvalidInputError where no row begins there."""
    try:
        with path.open("rb") as file:
            if after:
                file.seek(after - 1)
                if file.read(1) != b"\n":
                    raise InvalidInputError(
                        f"after is {after}, and no row begins there; give the `next` of an answer"
                    )
            rows = [decode(line) for _, line in zip(range(limit), file, strict=False)]
            at = file.tell()
            more = file.read(1) != b""
    except FileNotFoundError as error:
        raise NotFoundError(f"{path.name} is not there (any more)") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise NotFoundError(f"{path.name} was written by another version of Heed") from error
    return LinePage(rows, at if more else None)


def read_log(path: Path, after: int | None) -> LogPart:
    """The whole lines after a byte, or the last ones; an empty part before there is a log.

    A log that is shorter than `after` was begun anew, and is read from its start.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            begins = max(0, size - LONGEST_LOG) if after is None or after > size else after
            begins = max(begins, size - LONGEST_LOG)
            file.seek(begins)
            data = file.read(LONGEST_LOG)
    except FileNotFoundError:
        return LogPart("", 0, 0)
    cut = begins > 0 and begins != after
    first = data.find(b"\n") + 1 if cut else 0
    last = data.rfind(b"\n") + 1
    text = data[first:last].decode("utf-8", "replace") if last > first else ""
    return LogPart(_CONTROL.sub("", text), begins + first, begins + max(first, last))
