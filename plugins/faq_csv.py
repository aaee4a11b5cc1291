"""A data source for gold pairs in one file: CSV, TSV, Excel (.xlsx) or JSON lines.

Columns `question` and `answer` are needed, `id`, `author` and `updated` (ISO 8601)
are read where they stand; their order and case do not matter, other columns are
ignored. A row that cannot be used is rejected by line number; a file that cannot be
read as a whole is a SourceError, and nothing of it is taken.
"""

from __future__ import annotations

import hashlib
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
from plugins.table_files import Row, Table, read_table

NEEDED = ("question", "answer")
OPTIONAL = ("id", "author", "updated")
LONGEST = {"question": 2_000, "answer": 20_000, "id": 200, "author": 200, "updated": 40}
"""Characters a field may have; more than this is a broken quote or a pasted document."""


class FaqCsv:
    """One file of questions with their answers: CSV, TSV, Excel (.xlsx) or JSON lines."""

    name = "faq_csv"

    class Settings(BaseModel):
        path: Path = Field(description="The file with the columns question and answer.")
        delimiter: str = Field(
            default="",
            pattern=r'^[^"\r\n\x00 ]?$',
            description="What stands between two columns, if no ',' (in .tsv a tab).",
        )
        sheet: str = Field(default="", description="The sheet of a workbook; the first without.")

    def __init__(self, settings: Settings) -> None:
        self.path, self.delimiter, self.sheet = settings.path, settings.delimiter, settings.sheet

    def items(self, cursor: Cursor) -> Iterator[Item]:  # noqa: ARG002 - always lists everything
        """Yield a GoldPair or Rejected for each row, then Complete.

        Raises SourceError where the file is missing, empty, not UTF-8, badly quoted, lacks
        a needed column, or holds no usable row (which would remove everything known).
        """
        table = read_table(self.path, self.delimiter, self.sheet)
        columns = self._columns(table)
        lines: dict[str, int] = {}
        first = ""
        for row in table.rows:
            item = self._item(row, columns, table, lines)
            if isinstance(item, GoldPair):
                lines[item.id] = row.line
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

    def _columns(self, table: Table) -> dict[str, int]:
        header = table.columns
        names = [name.strip().casefold() for name in header]
        missing = [name for name in NEEDED if name not in names]
        found = ", ".join(repr(name.strip()) for name in header)
        if missing:
            raise SourceError(
                f"{self.path} lacks the column {' and '.join(missing)}: it has {found}; "
                "needed are question and answer, optional id, author, updated"
                + _delimiter_hint(table)
            )
        for name in (*NEEDED, *OPTIONAL):
            if names.count(name) > 1:
                raise SourceError(f"{self.path} has the column {name} twice: {found}; rename one")
        return {name: names.index(name) for name in (*NEEDED, *OPTIONAL) if name in names}

    def _item(
        self, row: Row, columns: Mapping[str, int], table: Table, lines: Mapping[str, int]
    ) -> GoldPair | Rejected:
        where, width = f"{self.path.name} line {row.line}", len(table.columns)
        if row.fault:
            return Rejected(where, row.fault)
        if any(cell.strip() for cell in row.cells[width:]):
            hint = f"; quote fields that hold a {table.delimiter!r}" if table.delimiter else ""
            told = f"has {len(row.cells)} fields, but the first line names {width}{hint}"
            return Rejected(where, told)
        values = {
            name: row.cells[column].strip() if column < len(row.cells) else ""
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


def _delimiter_hint(table: Table) -> str:
    joined = "".join(table.columns)
    other = next((mark for mark in (";", "\t", ",", "|") if mark in joined), None)
    if other is None or not table.delimiter or other == table.delimiter:
        return ""
    return f"; the columns may be separated by {other!r}: set the option delimiter"


@hookimpl
def heed_data_sources() -> Sequence[type[DataSource]]:
    """One source."""
    return (FaqCsv,)
