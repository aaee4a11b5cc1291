"""A data source for an export of Slack: its ZIP file, or the folder that it was unpacked into.

A thread with replies is a document. A question one of whose replies was marked as the answer, by a
check mark, is a gold pair as well. Direct messages are never read, private channels only if asked
for, and then for their members alone.
"""

from __future__ import annotations

import html
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

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

LARGEST_FILE_BYTES = 50_000_000
LONGEST_QUESTION, LONGEST_ANSWER = 2_000, 20_000
LONGEST_TITLE = 80
_REFERENCE = re.compile(r"<([@#!]?)([^<>|]*)(?:\|([^<>]*))?>")

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Channel:
    name: str
    readers: tuple[str, ...]


class SlackExport:
    """The threads of an exported Slack workspace, and the questions answered in them."""

    name = "slack_export"

    class Settings(BaseModel):
        path: Path = Field(
            description="The export: its ZIP file, or the folder it was unpacked into."
        )
        channels: list[str] = Field(
            default=[], description="Only these channels, one a line, without #; all without."
        )
        private: bool = Field(
            default=False, description="Read private channels too, for their members alone."
        )
        replies: int = Field(default=1, ge=0, description="Fewest replies that make a document.")
        accepted: list[str] = Field(
            default=["white_check_mark", "heavy_check_mark"],
            description="Reactions that mark a reply as the answer, one a line.",
        )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def items(self, cursor: Cursor) -> Iterator[Item]:  # noqa: ARG002 - an export lists everything
        """Yield a Document, and a GoldPair where there is one, for each thread, then Complete.

        Raises SourceError where the export cannot be read, or holds no thread (which would remove
        everything known).
        """
        found = False
        with self._opened() as place:
            people = _people(place)
            for channel in self._channels(place, people):
                for item in self._threads(place, channel, people):
                    found = found or isinstance(item, Document)
                    yield item
        if not found:
            raise SourceError(
                f"{self.settings.path} holds no thread with {self.settings.replies} replies in "
                "the channels asked for, so nothing was changed; check the source's options"
            )
        yield Complete()

    @contextmanager
    def _opened(self) -> Iterator[Path | zipfile.Path]:
        path = self.settings.path
        if path.is_dir():
            yield path
            return
        try:
            with zipfile.ZipFile(path) as packed:
                yield zipfile.Path(packed)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise SourceError(
                f"{path} is no readable ZIP file ({error}); export it anew"
            ) from error
        except OSError as error:
            raise SourceError(
                f"{path} cannot be read ({error.strerror or error}); check the option path"
            ) from error

    def _channels(
        self, place: Path | zipfile.Path, people: Mapping[str, Any]
    ) -> Iterator[_Channel]:
        kinds = ["channels.json", *(["groups.json"] if self.settings.private else [])]
        listed = [(kind, one) for kind in kinds for one in _read(place / kind, kind)]
        if not listed:
            raise SourceError(
                f"{self.settings.path} lists no channel (channels.json); is it a Slack export?"
            )
        for kind, channel in listed:
            name = str(channel.get("name", ""))
            # A name leads to a folder, and to none outside of the export.
            if name in ("", ".", "..") or "/" in name:
                continue
            if self.settings.channels and name not in self._wanted():
                continue
            readers: tuple[str, ...] = ("everyone",)
            if kind == "groups.json":
                members = (people.get(member, {}) for member in channel.get("members", ()))
                emails = sorted({str(one["email"]) for one in members if one.get("email")})
                readers = tuple(f"person:{email}" for email in emails)
            yield _Channel(name, readers)

    def _wanted(self) -> set[str]:
        return {name.strip().removeprefix("#") for name in self.settings.channels}

    def _threads(
        self, place: Path | zipfile.Path, channel: _Channel, people: Mapping[str, Any]
    ) -> Iterator[Item]:
        folder = place / channel.name
        threads: dict[str, list[Message]] = {}
        days: list[Path | zipfile.Path] = list(folder.iterdir()) if folder.is_dir() else []
        for day in sorted(days, key=lambda one: one.name):
            if not day.name.endswith(".json"):
                continue
            where = f"{channel.name}/{day.name}"
            try:
                messages = _read(day, where)
            except SourceError as error:
                yield Rejected(where, str(error))
                continue
            for message in messages:
                if message.get("type") == "message" and not message.get("subtype"):
                    thread = str(message.get("thread_ts") or message.get("ts") or "")
                    threads.setdefault(thread, []).append(message)
        for started, messages in sorted(threads.items()):
            if len(messages) > self.settings.replies:
                yield from self._thread(channel, started, messages, people)

    def _thread(
        self,
        channel: _Channel,
        started: str,
        messages: Sequence[Message],
        people: Mapping[str, Any],
    ) -> Iterator[Item]:
        identity = f"{channel.name}/{started}"
        if not channel.readers:
            yield Rejected(identity, "no member of its private channel has an e-mail address")
            return
        ordered = sorted(messages, key=lambda one: str(one.get("ts", "")))
        told = [(_name(one, people), _plain(one, people)) for one in ordered]
        first, last = told[0][1], _moment(ordered[-1])
        text = "\n\n".join(f"{name}: {said}" for name, said in told if said)
        if not first or not text:
            yield Rejected(identity, "begins with a message that has no text")
            return
        title = f"#{channel.name}: {' '.join(first.split())}"
        if len(title) > LONGEST_TITLE:
            title = f"{title[: LONGEST_TITLE - 1].rstrip()}…"
        yield Document(identity, title, text, updated=last, readers=channel.readers)
        # A gold pair has no readers of its own, so that only what all may read becomes one.
        answered = self._answer(ordered[1:], told[1:])
        if answered and first.endswith("?") and channel.readers == ("everyone",):
            name, answer = answered
            if len(first) <= LONGEST_QUESTION and len(answer) <= LONGEST_ANSWER:
                yield GoldPair(f"{identity}#answer", first, answer, name, last)

    def _answer(
        self, replies: Sequence[Message], told: Sequence[tuple[str, str]]
    ) -> tuple[str, str] | None:
        """The reply with the most marks as the answer, the first of equals."""
        marks = [
            self._marks(reply) if said else 0
            for reply, (_, said) in zip(replies, told, strict=True)
        ]
        return told[marks.index(max(marks))] if any(marks) else None

    def _marks(self, message: Message) -> int:
        given = message.get("reactions")
        if not isinstance(given, list):
            return 0
        return sum(
            int(one.get("count", 0))
            for one in given
            if isinstance(one, dict) and one.get("name") in self.settings.accepted
        )


def _people(place: Path | zipfile.Path) -> dict[str, dict[str, str]]:
    """Each person's name and e-mail address by id."""
    found = {}
    for user in _read(place / "users.json", "users.json"):
        given = user.get("profile")
        profile: dict[str, Any] = given if isinstance(given, dict) else {}
        name = profile.get("display_name") or profile.get("real_name") or user.get("name")
        found[str(user.get("id"))] = {
            "name": str(name or "somebody"),
            "email": str(profile.get("email") or ""),
        }
    return found


def _read(place: Path | zipfile.Path, what: str) -> list[dict[str, Any]]:
    """A JSON file's list of objects; none where the file is not there."""
    try:
        if not place.is_file():
            return []
        with place.open("rb") as file:
            data: bytes = file.read(LARGEST_FILE_BYTES + 1)
        if len(data) > LARGEST_FILE_BYTES:
            raise SourceError(f"{what} is longer than {LARGEST_FILE_BYTES} bytes")
        found = json.loads(data)
    except (ValueError, RecursionError, OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"{what} is no readable JSON ({error}); export it anew") from error
    if not isinstance(found, list):
        raise SourceError(f"{what} holds no list; is it of a Slack export?")
    return [one for one in found if isinstance(one, dict)]


def _name(message: Message, people: Mapping[str, Any]) -> str:
    known = people.get(str(message.get("user")))
    return known["name"] if known else "somebody"


def _plain(message: Message, people: Mapping[str, Any]) -> str:
    """The text as people read it: names for mentions, labels for links, no markup."""

    def told(found: re.Match[str]) -> str:
        kind, target, label = found[1], found[2], found[3]
        if kind == "@":
            return "@" + (label or people.get(target, {}).get("name", "somebody"))
        if kind:
            return ("#" if kind == "#" else "@") + (label or target).lstrip("@")
        return f"{label} ({target})" if label and label not in target else target

    text = _REFERENCE.sub(told, str(message.get("text") or ""))
    return html.unescape(text).replace("\x00", "").strip()


def _moment(message: Message) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(str(message.get("ts"))), UTC)
    except (ValueError, OverflowError, OSError):
        return None


@hookimpl
def heed_data_sources() -> Sequence[type[DataSource]]:
    """One source."""
    return (SlackExport,)
