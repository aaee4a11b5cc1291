"""Rows of a table in a file: CSV, TSV, an Excel workbook (.xlsx), or JSON lines.

A file that cannot be read as a whole raises SourceError; a row that cannot is told by its line.
"""

from __future__ import annotations

import csv
import io
import json
import threading
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from plugins.contract import OptionsError, SourceError

LARGEST_BYTES = 100_000_000

# The csv module's field limit belongs to the whole process, so changing it is guarded.
_field_limit = threading.Lock()


@dataclass(frozen=True, slots=True)
class Row:
    """A row with the line it begins on; `fault` says why it cannot be used."""

    line: int
    cells: list[str]
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """The names of the columns, and the rows that are not blank. `delimiter` is what stood between
    the cells, "" where that is no question."""

    columns: list[str]
    rows: list[Row]
    delimiter: str


def read_table(path: Path, delimiter: str = "", sheet: str = "") -> Table:
    """The table of a file, by the file's ending; .csv where it is another."""
    data = _bytes(path)
    match path.suffix.casefold():
        case ".xlsx" | ".xlsm":
            rows = list(_sheet_rows(path, data, sheet))
        case ".jsonl" | ".ndjson":
            return _json_table(path, data)
        case ending:
            delimiter = delimiter or ("\t" if ending == ".tsv" else ",")
            rows = list(_csv_rows(_text(path, data), path, delimiter))
    if not rows:
        raise SourceError(f"{path} is empty; its first line must name the columns")
    return Table(rows[0].cells, rows[1:], "" if path.suffix.casefold() == ".xlsx" else delimiter)


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise SourceError(
                f"{path} has {size} bytes; at most {LARGEST_BYTES} are read, split the file"
            )
        return path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read ({error.strerror}); "
            "check the source's option path and the file's permissions"
        ) from error


def _text(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(_not_utf8(path, data, error.start)) from error
    if not text.strip():
        raise SourceError(f"{path} is empty; its first line must name the columns")
    return text


def _csv_rows(text: str, path: Path, delimiter: str) -> Iterator[Row]:
    """Each row that is not blank, with the line it starts on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start, rows = 1, []
    with _field_limit:
        # No field is longer than the file; over-long ones are rejected by line number later.
        before = csv.field_size_limit(len(text) + 1)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    rows.append(Row(start, cells))
                start = reader.line_num + 1
        except csv.Error as error:
            raise SourceError(
                f"{path} line {start}: {error}; check that every quoted field is closed and "
                'that quotes inside a field are doubled ("")'
            ) from error
        finally:
            csv.field_size_limit(before)
    yield from rows


def _sheet_rows(path: Path, data: bytes, sheet: str) -> Iterator[Row]:
    """The rows of one sheet, the first where none is named; of formulas their last results."""
    try:
        import openpyxl
    except ImportError as error:
        raise OptionsError(
            "to read Excel workbooks, install what they need: pip install 'heed[excel]'"
        ) from error
    try:
        with warnings.catch_warnings():
            # It tells of styles and checks that it does not know, which bear no text.
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            names = book.sheetnames
            if sheet and sheet not in names:
                raise SourceError(
                    f"{path} has no sheet {sheet!r}, but {', '.join(map(repr, names))}; "
                    "check the source's option sheet"
                )
            for line, values in enumerate(book[sheet or names[0]].iter_rows(values_only=True), 1):
                cells = [_cell(value) for value in values]
                if any(cell.strip() for cell in cells):
                    yield Row(line, cells)
            book.close()
    except (zipfile.BadZipFile, KeyError, IndexError, ValueError, OSError, ParseError) as error:
        raise SourceError(
            f"{path} is no readable Excel workbook ({error}); open it and save it as .xlsx anew"
        ) from error


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _json_table(path: Path, data: bytes) -> Table:
    """One object a line; the columns are all names that stand in any of them."""
    objects: list[tuple[int, dict[str, Any] | str]] = []
    columns: dict[str, None] = {}
    for line, written in enumerate(_text(path, data).splitlines(), 1):
        if written.strip():
            found = _object(written)
            objects.append((line, found))
            columns |= dict.fromkeys(found) if isinstance(found, dict) else {}
    if not columns:
        raise SourceError(f"{path} holds no JSON object; write one with question and answer a line")
    rows = [
        Row(line, [_cell(found.get(name)) for name in columns])
        if isinstance(found, dict)
        else Row(line, [], found)
        for line, found in objects
    ]
    return Table(list(columns), rows, "")


def _object(written: str) -> dict[str, Any] | str:
    """The line's object with flat values, or why it is none."""
    try:
        found = json.loads(written)
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({error})"
    if not isinstance(found, dict):
        return "is no JSON object; write {...}"
    flat = {name: value for name, value in found.items() if not isinstance(value, dict | list)}
    return {name.strip().casefold(): value for name, value in flat.items()}


def _not_utf8(path: Path, data: bytes, position: int) -> str:
    line = data.count(b"\n", 0, position) + 1
    return (
        f"{path} is not UTF-8: byte {position} (line {line}) is 0x{data[position]:02x}; save it "
        f'as UTF-8 (in a spreadsheet: "CSV UTF-8"), or convert it: '
        f"iconv -f WINDOWS-1252 -t UTF-8 {path.name} > {path.stem}-utf8{path.suffix}"
    )
