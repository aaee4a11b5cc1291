"""A data source for a folder of Markdown pages, such as a handbook.

Each page is a document. A heading that is a question, with a short answer under it,
is a gold pair as well. Turning Markdown into text is markdown_text.py's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from plugins.contract import (
    Complete,
    Cursor,
    DataSource,
    Document,
    GoldPair,
    Item,
    Rejected,
    SourceError,
)
from plugins.hookspecs import hookimpl
from plugins.markdown_text import Page, Section, read_page

DEFAULT_PATTERN = "**/*.md"
LARGEST_PAGE_BYTES = 2_000_000
SHORTEST_ANSWER_WORDS = 8
LONGEST_ANSWER_WORDS = 250
SHORTEST_QUESTION_WORDS = 3

# "Questions?", "Still have questions?", "Need more help?": an invitation, no question of a reader.
_INVITATION = re.compile(
    r"(?:do |you |got |have |any |still |more |other |further |need |want )*"
    r"(?:questions?|help|support|feedback|comments?|suggestions?|information)"
    r"(?:,? (?:or |and )?(?:questions?|help|support|feedback|comments?|concerns?|suggestions?))*\?",
    re.IGNORECASE,
)
_ANSWER_MARK = re.compile(r"^A(?:nswer)?[:.]\s+")
_NUMBERING = re.compile(r"^(?:\d+(?:\.\d+)*[.):]?|Q\d*[.:)])\s+")


class _UnusablePageError(Exception):
    """Why one page is rejected; the others go on."""


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _title(page: Page, where: str) -> str:
    named = page.front_matter.get("title")
    if isinstance(named, str | int | float) and str(named).strip():
        return " ".join(str(named).split())
    headed = next((section.heading for section in page.sections if section.heading), "")
    return headed or re.sub(r"[-_]+", " ", PurePosixPath(where).stem)


def _updated(front_matter: dict[str, Any]) -> datetime | None:
    """The page's own date at `updated` or `date`; a file's time says when it was copied."""
    value = front_matter.get("updated", front_matter.get("date"))
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return None


def _gold_pairs(
    where: str, sections: tuple[Section, ...], updated: datetime | None
) -> Iterator[GoldPair]:
    taken: dict[str, int] = {}
    for position, section in enumerate(sections):
        question = _question(section.heading)
        answer = _answer(sections, position)
        if question and SHORTEST_ANSWER_WORDS <= len(answer.split()) <= LONGEST_ANSWER_WORDS:
            slug = re.sub(r"[\W_]+", "-", question.casefold()).strip("-")[:80]
            taken[slug] = taken.get(slug, 0) + 1
            count = f"-{taken[slug]}" if taken[slug] > 1 else ""
            yield GoldPair(f"{where}#{slug}{count}", question, answer, updated=updated)


def _question(heading: str) -> str | None:
    """The heading as a question, without numbering and footnote marks; None if it is none."""
    question = re.sub(r"[*†‡]+\?$", "?", _NUMBERING.sub("", heading))
    if not question.endswith("?") or len(question.split()) < SHORTEST_QUESTION_WORDS:
        return None
    return None if _INVITATION.fullmatch(question) else question


def _answer(sections: tuple[Section, ...], position: int) -> str:
    """The text under a heading, with that of the headings below it."""
    first = sections[position]
    parts = [first.text]
    for section in sections[position + 1 :]:
        if section.level <= first.level:
            break
        parts += [section.heading, section.text]
    return _ANSWER_MARK.sub("", "\n\n".join(part for part in parts if part))


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
            page = read_page(self._read(file))
        except _UnusablePageError as error:
            # A file name may hold bytes that no database takes.
            yield Rejected(where.encode("utf-8", "backslashreplace").decode(), str(error))
            return
        if not any(section.text for section in page.sections):
            yield Rejected(where, "has no text")
            return
        updated = _updated(page.front_matter)
        yield Document(where, _title(page, where), page.text, updated=updated)
        if self.questions:
            yield from _gold_pairs(where, page.sections, updated)

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
