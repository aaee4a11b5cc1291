"""What a plugin and its host say to each other. Needs the standard library only.

A plugin is a module whose hooks (hookspecs.py) answer classes. A class of any kind has a
`name`, which operators write under `plugin`; a docstring, whose first sentence they are shown;
and `Settings`, a pydantic BaseModel or a dataclass, which the host checks and makes a form of.
Without `Settings` it takes none. It is made as `cls(settings)`, in a process of its own.

    PluginError
    ├── OptionsError     a setting is wrong in a way that its type cannot say
    └── SourceError      the source cannot be read now
        ├── SecretError  its secret is wrong or has expired
        └── RetryLater   it is throttled or briefly out
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

Cursor = Mapping[str, Any]
"""Where a sync ended, as plain JSON types; empty at the first sync. The host stores it."""


class PluginError(Exception):
    """Anything a plugin wants to tell the operator; the text says what to do next."""


class OptionsError(PluginError):
    """An option in the settings is wrong: names it, its value and what would be right."""


class SourceError(PluginError):
    """The source cannot be read now (missing file, refused connection, undecodable bytes)."""


class SecretError(SourceError):
    """The source does not take its secret: it is wrong, has expired, or allows too little."""


class RetryLater(SourceError):  # noqa: N818 - asks for something, rather than naming a fault
    """The source is throttled or briefly out; the host waits, and goes on from the last
    Checkpoint. `seconds` is how long the source asked to wait, None where it did not say."""

    def __init__(self, seconds: float | None = None, reason: str = "") -> None:
        super().__init__(reason or "the source asks to be tried again later")
        self.seconds = seconds
        self.reason = str(self)


@dataclass(frozen=True, slots=True)
class Document:
    """A text that answers may rest on. `id` is stable across syncs within its source.

    `readers` names who may read it: "everyone", "group:NAME", or "person:" with the name or
    e-mail address that the person signs in with.
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
class Question:
    """A question without an answer, to practise on. `id` is stable across syncs."""

    id: str
    question: str


@dataclass(frozen=True, slots=True)
class Removal:
    """A document, gold pair or question of an earlier sync that is gone."""

    id: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item the source read but could not use: where it stands and why, for the SyncReport."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Says that what came before may be kept: a sync that is cut off goes on with `cursor`."""

    cursor: Cursor


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


Item = Document | GoldPair | Question | Removal | Rejected | Checkpoint | Complete | Partial

KINDS: Mapping[str, type[Item]] = {
    "document": Document,
    "gold_pair": GoldPair,
    "question": Question,
    "removal": Removal,
    "rejected": Rejected,
    "checkpoint": Checkpoint,
    "complete": Complete,
    "partial": Partial,
}
"""What `kind` says in an item that is a plain dict: {"kind": "document", "id": ..., ...}."""


class DataSource(Protocol):
    """Brings items from one place. The last item must be Complete or Partial.

    May have `check(self) -> str`, which tries within a few seconds whether the place can be
    read, and answers a sentence for the operator.
    """

    name: str

    def items(self, cursor: Cursor) -> Iterable[Item | Mapping[str, Any]]:
        """Yield what is new since `cursor`; raise SourceError if the place cannot be read."""


@dataclass(frozen=True, slots=True)
class ShownPassage:
    """A passage that stood in the prompt."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a person said about the answer: a thumb, 1 for up and -1 for down."""

    kind: Literal["thumb"]
    value: Literal[-1, 1]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reward signal judges; `gold` is the right answer where it is known, `feedback` what
    people said about this very answer, most often nothing."""

    question: str
    text: str
    passages: tuple[ShownPassage, ...] = ()
    gold: str | None = None
    feedback: tuple[Feedback, ...] = ()


class RewardSignal(Protocol):
    """Judges answers. In the place of `read` it may have
    `read_batch(self, answers: Sequence[Answer]) -> Sequence[float | None]`."""

    name: str

    def read(self, answer: Answer) -> float | None:
        """A reading in [-1, 1], higher is better, or None to abstain."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """A policy version went live. `previous` is the one before it, `by` who promoted it."""

    version: str
    previous: str | None
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A training run ended. `outcome` is "promoted", "refused", "failed", "cancelled" or
    "interrupted"; `figures` what the gate measured. A run may end again, as where it is
    resumed."""

    run: str
    outcome: str
    figures: Mapping[str, float]


class Observer(Protocol):
    """Is told what happens. Either method may be left out; what they answer is not used."""

    name: str

    def promoted(self, event: Promotion) -> None:
        """Called after a version went live."""

    def run_finished(self, event: FinishedRun) -> None:
        """Called after a run ended."""


class Redactor(Protocol):
    """Takes out of texts what must not be learnt or handed on."""

    name: str

    def redact(self, text: str) -> str:
        """The text without it. Called for each question and answer of a snapshot or export."""


class Reranker(Protocol):
    """Puts the passages that were found for a question into a better order."""

    name: str

    def rerank(self, question: str, passages: Sequence[ShownPassage]) -> Sequence[float]:
        """A finite score for each passage, in their order; higher is better."""
