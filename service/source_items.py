"""Checks, one by one, the items that a data source yields, before any is stored."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from plugins import contract
from service.errors import InvalidInputError, PluginFailure
from service.groups import reader
from service.wording import readable

LONGEST_ID = 1_000
LONGEST_TITLE = 500
LONGEST_NAME = 200
LONGEST_URL = 4_000
LONGEST_QUESTION = 2_000
LONGEST_ANSWER = 20_000
LONGEST_DOCUMENT = 5_000_000
MOST_REJECTED = 1_000
"""Rejected items a report lists; it counts all."""

Kept = TypeVar("Kept", contract.Document, contract.GoldPair, contract.Question)


@dataclass
class Batch:
    """One page of a sync, or all of it where the source has no checkpoints: what was listed,
    checked. Ids are unique within each kind.

    `complete` says that what was not listed is gone. `cursor` is where to go on.
    """

    documents: dict[str, contract.Document] = field(default_factory=dict)
    gold_pairs: dict[str, contract.GoldPair] = field(default_factory=dict)
    questions: dict[str, contract.Question] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    """Ids that were listed, but cannot be used as they are now: what is known of them stays."""
    complete: bool = False
    cursor: contract.Cursor = field(default_factory=dict)
    rejected_count: int = 0
    _rejected: list[tuple[str, str]] = field(default_factory=list)

    def add(self, item: contract.Item) -> None:
        """Take an item in; one that cannot be used is rejected with its reason.

        Raises PluginFailure for a cursor that is no plain JSON.
        """
        match item:
            case contract.Document():
                self._keep(self.documents, "document", item, _checked_document)
            case contract.GoldPair():
                self._keep(self.gold_pairs, "gold pair", item, _checked_gold_pair)
            case contract.Question():
                self._keep(self.questions, "question", item, _checked_question)
            case contract.Removal():
                self.removed.add(str(item.id))
            case contract.Rejected():
                self._reject(item.where, item.reason)
                self.refused.add(str(item.where))
            case contract.Checkpoint() | contract.Complete() | contract.Partial():
                self.complete = isinstance(item, contract.Complete)
                self.cursor = _checked_cursor(item.cursor)

    @property
    def rejected(self) -> list[tuple[str, str]]:
        """Where each item stood that could not be used, and why; the first of them."""
        return self._rejected

    def _keep(
        self, kept: dict[str, Kept], kind: str, item: Kept, check: Callable[[Kept], Kept]
    ) -> None:
        where = f"{kind} {item.id}"
        try:
            checked = check(item)
        except InvalidInputError as error:
            self._reject(where, str(error))
            self.refused.add(str(item.id))
            return
        if checked.id in kept:
            self._reject(where, "its id was listed twice; the first one is kept")
            return
        kept[checked.id] = checked

    def _reject(self, where: object, reason: object) -> None:
        self.rejected_count += 1
        if len(self._rejected) < MOST_REJECTED:
            self._rejected.append((_printable(where), _printable(reason)))


def _checked_document(item: contract.Document) -> contract.Document:
    return dataclasses.replace(
        item,
        id=_text("id", item.id, LONGEST_ID),
        title=" ".join(_text("title", item.title, LONGEST_TITLE).split()),
        text=_text("text", item.text, LONGEST_DOCUMENT),
        url=_optional("url", item.url, LONGEST_URL),
        updated=_moment(item.updated),
        readers=_readers(item.readers),
    )


def _checked_gold_pair(item: contract.GoldPair) -> contract.GoldPair:
    return dataclasses.replace(
        item,
        id=_text("id", item.id, LONGEST_ID),
        question=_text("question", item.question, LONGEST_QUESTION),
        answer=_text("answer", item.answer, LONGEST_ANSWER),
        author=_optional("author", item.author, LONGEST_NAME),
        updated=_moment(item.updated),
    )


def _checked_question(item: contract.Question) -> contract.Question:
    return dataclasses.replace(
        item,
        id=_text("id", item.id, LONGEST_ID),
        question=_text("question", item.question, LONGEST_QUESTION),
    )


def _text(name: str, value: object, longest: int) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"{name} is a {type(value).__name__}; it must be text")
    return readable(name, value, longest)


def _optional(name: str, value: object, longest: int) -> str | None:
    return None if value is None or value == "" else _text(name, value, longest)


def _moment(value: object) -> datetime | None:
    """In UTC; a moment without a zone is taken for UTC."""
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise InvalidInputError(f"updated is a {type(value).__name__}; it must be a datetime")
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInputError(f"updated is {value}, which no calendar in UTC has") from error


def _readers(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, tuple | list) or not value:
        raise InvalidInputError(
            "readers must name at least one group that may read it, such as 'everyone'"
        )
    return tuple(sorted({reader(_text("readers", group, LONGEST_NAME)) for group in value}))


def _checked_cursor(cursor: object) -> Mapping[str, Any]:
    try:
        plain = json.loads(json.dumps(cursor, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise PluginFailure(f"the source's new cursor is no plain JSON: {error}") from error
    if not isinstance(plain, dict):
        raise PluginFailure(
            f"the source's new cursor is a {type(cursor).__name__}; it must be a mapping"
        )
    return plain


def _printable(value: object) -> str:
    text = str(value).replace("\x00", "�").encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST_TITLE else text[: LONGEST_TITLE - 1] + "…"
