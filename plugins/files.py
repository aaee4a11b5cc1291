"""A data source for a folder of documents: PDF, Word, PowerPoint, HTML, and plain text.

A file is converted when it is new or has changed (size and time), so after the first sync only
changes and removals are brought. A conversion that took too long or crashed is tried again by the
next two. Needs heed[files]; file_converter.py does the converting.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from plugins.contract import (
    Checkpoint,
    Complete,
    Cursor,
    DataSource,
    Document,
    Item,
    OptionsError,
    Partial,
    Rejected,
    Removal,
    SourceError,
)
from plugins.file_converter import ConversionError, ConversionInterruptedError, Converter
from plugins.hookspecs import hookimpl

ENDINGS = (".docx", ".htm", ".html", ".md", ".pdf", ".pptx", ".txt")
FILES_PER_CHECKPOINT = 20
LARGEST_FILE_BYTES = 100_000_000
MOST_TRIES = 3
"""Syncs that try a file whose conversion took too long or crashed, until it changes."""
NO_CURSOR: dict[str, Any] = {}


def _within_the_folder(value: str) -> str:
    parts = PurePosixPath(value).parts
    plain = value and not value.startswith(("/", "~")) and parts and ".." not in parts
    if plain and all("**" not in part or part == "**" for part in parts):
        return value
    raise ValueError('give a pattern within the folder, like "**/*" or "policies/*.pdf"')


class Files:
    """The documents of a folder: PDF, Word, PowerPoint, HTML and plain text."""

    name = "files"

    class Settings(BaseModel):
        path: Path = Field(description="The folder that holds the documents.")
        pattern: Annotated[str, AfterValidator(_within_the_folder)] = Field(
            default="**/*", description="Which files of it are read, of the known endings."
        )
        seconds: float = Field(
            default=20.0, gt=0, le=600, description="Longest time that one file may take."
        )

    def __init__(self, settings: Settings) -> None:
        if importlib.util.find_spec("markitdown") is None:
            raise OptionsError(
                "to read documents, install what they need: pip install 'heed[files]'"
            )
        self.path, self.pattern, self.seconds = settings.path, settings.pattern, settings.seconds

    def check(self) -> str:
        """Say how many files there are to read."""
        return f"The folder holds {len(self._files())} files to read."

    def items(self, cursor: Cursor) -> Iterator[Item]:
        """Yield the files that changed, and removals of those that are gone.

        Raises SourceError where the folder is missing, or none of its files can be read (which
        would remove everything known).
        """
        known: dict[str, Any] = dict(cursor.get("files", NO_CURSOR))
        full = bool(cursor.get("full", not known))
        after = cursor.get("after", "")
        files = self._files()
        with closing(Converter(self.seconds)) as converter:
            waiting = [where for where in files if where > after]
            for number, where in enumerate(waiting, 1):
                yield from self._file(where, files[where], known, converter)
                if number % FILES_PER_CHECKPOINT == 0:
                    yield Checkpoint({"files": dict(known), "full": full, "after": where})
        for where in sorted(known.keys() - files.keys()):
            del known[where]
            yield Removal(where)
        if not any(entry["fault"] is None for entry in known.values()):
            raise SourceError(
                f"no file of {self.path} can be read, so nothing was changed; "
                "look at what was rejected"
            )
        end = {"files": known}
        yield Complete(end) if full else Partial(end)

    def _files(self) -> dict[str, Path]:
        """The files to read by their path within the folder, in its order."""
        if not self.path.is_dir():
            what = "is no folder" if self.path.exists() else "does not exist"
            raise SourceError(f"{self.path} {what}; check the source's option path")
        found = {
            file.relative_to(self.path).as_posix(): file
            for file in self.path.glob(self.pattern)
            if file.suffix.casefold() in ENDINGS and file.is_file() and not self._hidden(file)
        }
        if not found:
            raise SourceError(
                f"{self.path} holds no file that matches {self.pattern!r} and ends in one of "
                f"{', '.join(ENDINGS)} (hidden files are left out); check path and pattern"
            )
        return dict(sorted(found.items()))

    def _hidden(self, file: Path) -> bool:
        return any(part.startswith((".", "~$")) for part in file.relative_to(self.path).parts)

    def _file(
        self, where: str, file: Path, known: dict[str, Any], converter: Converter
    ) -> Iterator[Item]:
        # A file name may hold bytes that no database takes.
        shown = where.encode("utf-8", "backslashreplace").decode()
        if shown != where:
            yield Rejected(shown, "has a file name that is not UTF-8; rename it")
            return
        before = known.get(where)
        stamp, fault, tries = "", "", 0
        try:
            stamp = self._stamp(file)
            if before is not None and before["stamp"] == stamp:
                tries = before["tries"]
                if before["fault"] is not None and tries >= MOST_TRIES:
                    yield Rejected(where, before["fault"])
                if before["fault"] is None or tries >= MOST_TRIES:
                    return
            converted = converter.convert(file)
        except ConversionInterruptedError as error:
            fault, tries = str(error), tries + 1
        except ConversionError as error:
            fault, tries = str(error), MOST_TRIES
        except OSError as error:
            fault, tries = f"cannot be read ({error.strerror})", MOST_TRIES
        if fault:
            if before is not None and before["fault"] is None:
                yield Removal(where)
            known[where] = {"stamp": stamp, "fault": fault, "tries": tries}
            yield Rejected(where, fault)
            return
        known[where] = {"stamp": stamp, "fault": None, "tries": 0}
        yield Document(where, converted.title or _title(where, converted.text), converted.text)

    def _stamp(self, file: Path) -> str:
        if not file.resolve().is_relative_to(self.path.resolve()):
            raise ConversionError("is a link that leads out of the folder; not followed")
        state = file.stat()
        if state.st_size > LARGEST_FILE_BYTES:
            raise ConversionError(
                f"has {state.st_size} bytes; at most {LARGEST_FILE_BYTES} are read, split the file"
            )
        return f"{state.st_size}-{state.st_mtime_ns}"


def _title(where: str, text: str) -> str:
    heading = re.match(r"#{1,6} (.+)", text)
    return heading[1].strip()[:300] if heading else re.sub(r"[-_]+", " ", PurePosixPath(where).stem)


@hookimpl
def heed_data_sources() -> Sequence[type[DataSource]]:
    """One source."""
    return (Files,)
