"""A data source for a folder of Markdown pages, such as a handbook.

Each page is a document. A heading that is a question, with a short answer under it,
is a gold pair as well (markdown_pages.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from plugins.contract import (
    Complete,
    Cursor,
    DataSource,
    Document,
    Item,
    Rejected,
    SourceError,
)
from plugins.hookspecs import hookimpl
from plugins.markdown_pages import page_items

DEFAULT_PATTERN = "**/*.md"
LARGEST_PAGE_BYTES = 2_000_000


class _UnusablePageError(Exception):
    """Why one page is rejected; the others go on."""


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _within_the_folder(value: str) -> str:
    parts = PurePosixPath(value).parts
    plain = value and not value.startswith(("/", "~")) and parts and ".." not in parts
    if plain and all("**" not in part or part == "**" for part in parts):
        return value
    raise ValueError('give a pattern within the folder, like "**/*.md" or "faq/*.md"')


class MarkdownFolder:
    """The pages of a folder of Markdown files, and the questions that their headings ask."""

    name = "markdown_folder"

    class Settings(BaseModel):
        path: Path = Field(description="The folder that holds the pages.")
        pattern: Annotated[str, AfterValidator(_within_the_folder)] = Field(
            default=DEFAULT_PATTERN, description="Which files of it are pages."
        )
        questions: bool = Field(default=True, description="Make gold pairs of headings that ask.")

    def __init__(self, settings: Settings) -> None:
        self.path, self.pattern = settings.path, settings.pattern
        self.questions = settings.questions

    def items(self, cursor: Cursor) -> Iterator[Item]:  # noqa: ARG002 - always lists everything
        """Yield a Document and its GoldPairs, or a Rejected, for each page, then Complete.

        Raises SourceError where the folder is missing, no page matches, or none can be used
        (which would remove everything known).
        """
        usable, first = False, ""
        for file in self._files():
            for item in self._page_items(file):
                usable = usable or isinstance(item, Document)
                if isinstance(item, Rejected):
                    first = first or f"{item.where} {item.reason}"
                yield item
        if not usable:
            raise SourceError(
                f"no page of {self.path} that matches {self.pattern!r} can be used, "
                f"so nothing was changed; the first of them: {first}"
            )
        yield Complete()

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            what = "is no folder" if self.path.exists() else "does not exist"
            raise SourceError(f"{self.path} {what}; check the source's option path")
        files = sorted(
            file
            for file in self.path.glob(self.pattern)
            if file.is_file() and not _is_hidden(file.relative_to(self.path))
        )
        if not files:
            raise SourceError(
                f"{self.path} holds no file that matches {self.pattern!r} "
                "(hidden files and folders are left out); check the options path and pattern"
            )
        return files

    def _page_items(self, file: Path) -> Iterator[Item]:
        where = file.relative_to(self.path).as_posix()
        try:
            text = self._read(file)
        except _UnusablePageError as error:
            # A file name may hold bytes that no database takes.
            yield Rejected(where.encode("utf-8", "backslashreplace").decode(), str(error))
            return
        yield from page_items(where, text, self.questions)

    def _read(self, file: Path) -> str:
        try:
            file.as_posix().encode()
            if not file.resolve().is_relative_to(self.path.resolve()):
                raise _UnusablePageError("is a link that leads out of the folder; not followed")
            size = file.stat().st_size
            if size > LARGEST_PAGE_BYTES:
                raise _UnusablePageError(
                    f"has {size} bytes; at most {LARGEST_PAGE_BYTES} are read, split the page"
                )
            return file.read_bytes().decode("utf-8-sig")
        except UnicodeEncodeError as error:
            raise _UnusablePageError("has a file name that is not UTF-8; rename it") from error
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise _UnusablePageError(
                f"is not UTF-8: byte {error.start} is 0x{byte:02x}; save it as UTF-8"
            ) from error
        except OSError as error:
            raise _UnusablePageError(f"cannot be read ({error.strerror})") from error


@hookimpl
def heed_data_sources() -> Sequence[type[DataSource]]:
    """One source."""
    return (MarkdownFolder,)
