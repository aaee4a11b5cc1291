"""A data source for gold pairs in one CSV file.

Columns `question` and `answer` are needed, `id`, `author` and `updated` (ISO 8601)
are read where they stand; their order and case do not matter, other columns are
ignored. A row that cannot be used is rejected by line number; a file that cannot be
read as a whole is a SourceError, and nothing of it is taken.
"""

from __future__ import annotations

import csv
import hashlib
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, Field

from plugins.contract import (
    Complete,
    Cursor,
    DataSource,
    GoldPair,
    Item,
    Rejected,
    SourceError,
)
from plugins.hookspecs import hookimpl

NEEDED = ("question", "answer")
OPTIONAL = ("id", "author", "updated")
LONGEST = {"question": 2_000, "answer": 20_000, "id": 200, "author": 200, "updated": 40}
"""Characters a field may have; more than this is a broken quote or a pasted document."""

# The csv module's field limit belongs to the whole process, so changing it is guarded.
_field_limit = threading.Lock()


class FaqCsv:
    """One CSV file of questions with their answers."""

    name = "faq_csv"

    class Settings(BaseModel):
        path: Path = Field(description="The CSV file with the columns question and answer.")
        delimiter: str = Field(
            default=",",
            pattern=r'^[^"\r\n\x00 ]$',
            description="The one character that stands between two columns, like ';'.",
        )

    def __init__(self, settings: Settings) -> None:
        self.path, self.delimiter = settings.path, settings.delimiter

    def items(self, cursor: Cursor) -> Iterator[Item]:  # noqa: ARG002 - always lists everything
        """Yield a GoldPair or Rejected for each row, then Complete.

        Raises SourceError where the file is missing, empty, not UTF-8, badly quoted, lacks
        a needed column, or holds no usable row (which would remove everything known).
        """
        rows = iter(_rows(self._text(), self.path, self.delimiter))
        header = next(rows, (1, [""]))[1]
        columns = self._columns(header)
        lines: dict[str, int] = {}
        first = ""
        for line, row in rows:
            item = self._item(line, row, columns, len(header), lines)
            if isinstance(item, GoldPair):
                lines[item.id] = line
            else:
                first = first or f"{item.where} {item.reason}"
            yield item
        if not lines:
            raise SourceError(
                f"{self.path} has no row that can be used, so nothing was changed "
                f"({first or 'it only names its columns'}); "
                "give it at least one row with a question and an answer"
            )
        yield Complete()

    def _text(self) -> str:
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise SourceError(
                f"{self.path} cannot be read ({error.strerror}); "
                "check the source's option path and the file's permissions"
            ) from error
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SourceError(_not_utf8(self.path, data, error.start)) from error
        if not text.strip():
            raise SourceError(f"{self.path} is empty; its first line must name the columns")
        return text

    def _columns(self, header: list[str]) -> dict[str, int]:
        names = [name.strip().casefold() for name in header]
        missing = [name for name in NEEDED if name not in names]
        found = ", ".join(repr(name.strip()) for name in header)
        if missing:
            raise SourceError(
                f"{self.path} lacks the column {' and '.join(missing)}: it has {found}; "
                "needed are question and answer, optional id, author, updated"
                + _delimiter_hint(header, self.delimiter)
            )
        for name in (*NEEDED, *OPTIONAL):
            if names.count(name) > 1:
                raise SourceError(f"{self.path} has the column {name} twice: {found}; rename one")
        return {name: names.index(name) for name in (*NEEDED, *OPTIONAL) if name in names}

    def _item(
        self,
        line: int,
        row: list[str],
        columns: Mapping[str, int],
        width: int,
        lines: Mapping[str, int],
    ) -> GoldPair | Rejected:
        where = f"{self.path.name} line {line}"
        if any(cell.strip() for cell in row[width:]):
            return Rejected(
                where,
                f"has {len(row)} fields, but the first line names {width}; "
                f"quote fields that hold a {self.delimiter!r}",
            )
        values = {
            name: row[column].strip() if column < len(row) else ""
            for name, column in columns.items()
        }
        reason = _fault(values)
        if reason:
            return Rejected(where, reason)
        identity = values.get("id") or _question_id(values["question"])
        if identity in lines:
            what = "id" if values.get("id") else "question"
            return Rejected(where, f"has the same {what} as line {lines[identity]}; remove one")
        return GoldPair(
            id=identity,
            question=values["question"],
            answer=values["answer"],
            author=values.get("author") or None,
            updated=_moment(values.get("updated", "")),
        )


def _rows(text: str, path: Path, delimiter: str) -> list[tuple[int, list[str]]]:
    """Each row that is not blank, with the line it starts on."""
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    with _field_limit:
        # No field is longer than the file; over-long ones are rejected by line number later.
        before = csv.field_size_limit(len(text) + 1)
        try:
            for row in reader:
                if any(cell.strip() for cell in row):
                    rows.append((start, row))
                start = reader.line_num + 1
        except csv.Error as error:
            raise SourceError(
                f"{path} line {start}: {error}; check that every quoted field is closed and "
                'that quotes inside a field are doubled ("")'
            ) from error
        finally:
            csv.field_size_limit(before)
    return rows


def _fault(values: Mapping[str, str]) -> str | None:
    for name in NEEDED:
        if not values[name]:
            return f"has no {name}"
    for name, value in values.items():
        if len(value) > LONGEST[name]:
            return f"{name} has {len(value)} characters; at most {LONGEST[name]} are taken"
        if "\0" in value:
            return f"{name} holds a NUL character; remove it"
    try:
        _moment(values.get("updated", ""))
    except (ValueError, OverflowError):
        return f"updated is {values['updated']!r}; write it like 2026-03-31"
    return None


def _moment(value: str) -> datetime | None:
    if not value:
        return None
    moment = datetime.fromisoformat(value)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _question_id(question: str) -> str:
    normalised = " ".join(question.casefold().split()).rstrip("?!. ")
    return hashlib.sha256(normalised.encode()).hexdigest()[:12]


def _not_utf8(path: Path, data: bytes, position: int) -> str:
    line = data.count(b"\n", 0, position) + 1
    return (
        f"{path} is not UTF-8: byte {position} (line {line}) is 0x{data[position]:02x}; save it "
        f'as UTF-8 (in a spreadsheet: "CSV UTF-8"), or convert it: '
        f"iconv -f WINDOWS-1252 -t UTF-8 {path.name} > {path.stem}-utf8.csv"
    )


def _delimiter_hint(header: list[str], delimiter: str) -> str:
    other = next((mark for mark in (";", "\t", ",", "|") if mark in "".join(header)), None)
    if other is None or other == delimiter:
        return ""
    return f"; the columns may be separated by {other!r}: set the option delimiter"


@hookimpl
def heed_data_sources() -> Sequence[type[DataSource]]:
    """One source."""
    return (FaqCsv,)
