"""What the engine reads and writes: prompts, demonstrations, comparisons, settings.

Plain frozen dataclasses and JSON, no torch, so that the service can build them
without loading a model.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Split = Literal["train", "held_out", "exam"]
Outcome = Literal["a", "b", "tie", "both_bad"]
Strength = Literal["slightly", "much"]


@dataclass(frozen=True, slots=True)
class PromptPassage:
    """One passage as the policy sees it; `id` leads back to the document it was cut from."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """An earlier question of the same conversation, with the answer that was shown."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything that is rendered before an answer: question, passages, earlier exchanges, and
    what a client adds to the system text (`instructions`)."""

    id: str
    question: str
    passages: tuple[PromptPassage, ...] = ()
    history: tuple[Exchange, ...] = ()
    split: Split = "train"
    instructions: str = ""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt with the answer a person wrote for it (the gold answer)."""

    prompt: Prompt
    answer: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One rater's choice between two answers to the same prompt.

    `outcome` names the better answer, or says tie or both bad. `rater` is a
    pseudonymous id. `versions` are the PolicyVersions of answers a and b. `rated_at` is a
    moment in ISO 8601, UTC; `source` names what the question was answered from.
    """

    id: str
    prompt: Prompt
    answer_a: str
    answer_b: str
    outcome: Outcome
    strength: Strength | None = None
    rater: str = ""
    simulated: bool = False
    versions: tuple[str, str] = ("", "")
    rated_at: str = ""
    source: str = ""

    @property
    def decisive(self) -> bool:
        """Whether one answer was chosen over the other."""
        return self.outcome in ("a", "b")

    @property
    def chosen(self) -> str:
        """The better answer; only meaningful where `decisive`."""
        return self.answer_b if self.outcome == "b" else self.answer_a

    @property
    def rejected(self) -> str:
        """The worse answer; only meaningful where `decisive`."""
        return self.answer_a if self.outcome == "b" else self.answer_b


@dataclass(frozen=True, slots=True)
class Thumb:
    """One rater's up or down on one answer; the other fields are those of a Comparison."""

    prompt: Prompt
    answer: str
    up: bool
    rater: str = ""
    simulated: bool = False
    rated_at: str = ""


GREEDY_BELOW = 1e-5
"""Temperatures below this are greedy: logits that are divided by less may not be finite."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How tokens are drawn. A `temperature` below GREEDY_BELOW is greedy; `top_p` 1 keeps the whole
    distribution, and however small it is, the likeliest token is kept.

    An answer ends before the first of the texts in `stop`; only serving engines heed them.
    `top_logprobs` is how many of the likeliest tokens each Token event tells.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 96
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """One generated answer. `finish_reason` is "stop" (the policy ended it) or "length"."""

    prompt_id: str
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
    seed: int


@dataclass(frozen=True, slots=True)
class SignalInput:
    """What a reward signal is given for one answer: `gold` is the right answer where known,
    `thumbs` what people gave this very answer, 1 for up and -1 for down."""

    prompt: Prompt
    answer: str
    gold: str | None = None
    thumbs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StageReport:
    """What a stage measured. `figures` has stable keys; `seconds` is wall time over all tries, of
    one that was killed as far as it had told its progress."""

    stage: str
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateReport:
    """Why the candidate may or may not go live, in one sentence and with the figures."""

    passed: bool
    sentence: str
    figures: dict[str, Any] = field(default_factory=dict)


Record = TypeVar("Record")


def to_json(record: Any) -> dict[str, Any]:
    """The record as plain JSON types."""
    return dataclasses.asdict(record, dict_factory=_fields)


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A prompt without instructions is written as ever, so that a snapshot keeps its hash."""
    return {name: value for name, value in pairs if (name, value) != ("instructions", "")}


def from_json(kind: type[Record], data: Any) -> Record:
    """Build a dataclass of this module (or one like it) from `to_json` output.

    Raises TypeError on an unknown or missing field, so that a file from another
    version of the program is noticed and not half read.
    """
    return typing.cast(Record, _convert(kind, data))


def _convert(kind: Any, data: Any) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _convert_dataclass(kind, data)
    if origin is tuple:
        inner = typing.get_args(kind)
        kinds = [inner[0]] * len(data) if inner[-1] is Ellipsis else inner
        return tuple(_convert(k, item) for k, item in zip(kinds, data, strict=True))
    if origin is dict:
        return {key: _convert(typing.get_args(kind)[1], value) for key, value in data.items()}
    if origin in (typing.Union, types.UnionType):
        return None if data is None else _convert(typing.get_args(kind)[0], data)
    return data


def _convert_dataclass(kind: Any, data: Any) -> Any:
    if not isinstance(data, dict):
        raise TypeError(f"{kind.__name__}: expected an object, found {type(data).__name__}")
    hints = _hints_of(kind)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise TypeError(f"{kind.__name__}: unknown field {unknown[0]!r}")
    return kind(**{name: _convert(hints[name], value) for name, value in data.items()})


@functools.cache
def _hints_of(kind: type[Any]) -> dict[str, Any]:
    """Each field's type; worked out once, since a question's prompt is read while people wait."""
    return typing.get_type_hints(kind)
