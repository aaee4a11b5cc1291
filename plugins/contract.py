"""What a plugin and its host say to each other. Needs the standard library only.

A data source brings documents and gold pairs; a reward signal gives an answer a
reading in [-1, 1]. Both are made by a hook (hookspecs.py) from the options an
operator wrote in the settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

Options = Mapping[str, Any]
"""What the operator wrote under `options`; the plugin checks it and raises OptionsError."""

OptionKind = Literal["text", "path", "number", "switch", "secret"]


@dataclass(frozen=True, slots=True)
class OptionField:
    """An option as a form asks for it.

    A "path" names a file or folder on the server, a "number" is a whole number, a "switch" true
    or false. A "secret" is written as "env:HEED_SECRET_NAME" or "file:NAME" (a file in
    /run/secrets), and the plugin gets what stands there. `default` is None where the option is
    needed.
    """

    name: str
    help: str
    kind: OptionKind = "text"
    default: str | int | bool | None = None


Cursor = Mapping[str, Any]
"""Where a sync ended, as plain JSON types; empty at the first sync. The host stores it."""


class PluginError(Exception):
    """Anything a plugin wants to tell the operator; the text says what to do next."""


class OptionsError(PluginError):
    """An option in the settings is wrong: names it, its value and what would be right."""


class SourceError(PluginError):
    """The source cannot be read now (missing file, refused connection, undecodable bytes)."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text that answers may rest on. `id` is stable across syncs within its source.

    `readers` names who may read it; "everyone" is the only group so far.
    """

    id: str
    title: str
    text: str
    url: str | None = None
    updated: datetime | None = None
    readers: tuple[str, ...] = ("everyone",)


@dataclass(frozen=True, slots=True)
class GoldPair:
    """A question with the answer a person wrote. `id` is stable across syncs within its source."""

    id: str
    question: str
    answer: str
    author: str | None = None
    updated: datetime | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """A document or gold pair of an earlier sync that is gone."""

    id: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item the source read but could not use: where it stands and why, for the SyncReport."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Complete:
    """Says that this sync listed everything: what was not listed again is gone.

    `cursor` is what the host hands to the next sync.
    """

    cursor: Cursor = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Partial:
    """Says that this sync listed changes only; nothing unlisted is removed."""

    cursor: Cursor = field(default_factory=dict)


Item = Document | GoldPair | Removal | Rejected | Complete | Partial


class DataSource(Protocol):
    """Brings items from one place. The last item must be Complete or Partial."""

    def items(self, cursor: Cursor) -> Iterable[Item]:
        """Yield what is new since `cursor`; raise SourceError if the place cannot be read."""


@dataclass(frozen=True, slots=True)
class ShownPassage:
    """A passage that stood in the prompt."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reward signal judges; `gold` is the right answer where it is known."""

    question: str
    text: str
    passages: tuple[ShownPassage, ...] = ()
    gold: str | None = None


class RewardSignal(Protocol):
    """Judges answers."""

    def read(self, answer: Answer) -> float | None:
        """A reading in [-1, 1], higher is better, or None to abstain."""
